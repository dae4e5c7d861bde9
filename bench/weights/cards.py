"""Model cards: a page of Markdown about each set of weights.

Made from the manifest, the record, and what the network says of itself.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from bench.errors import GatebenchError, PlanError, PluginError
from bench.files.toml import dump_value
from bench.plugins import registry
from bench.weights.entry import Entry
from bench.weights.manifest import entries as known_weights
from bench.weights.parts import WeightsPart
from bench.weights.storage import read_record

_BARS = "▁▂▃▄▅▆▇█"
_SETTINGS_ELSEWHERE = {
    *("recipe", "stage_name", "dataset", "seed", "precision", "start", "images", "rows"),
    "teacher_sha256",
}
_IN_A_FOLDER = ("cifar10", "imagenette")
"""Data sets that do not come along."""
_NOTES = {
    "digits-m": "digits-m is for trying, not for claims.",
    "imagenette": "Measured on true validation pictures of ImageNet, of ten of its classes.",
    "cifar10-jpeg": "cifar10-jpeg is a JPEG re-encoding of CIFAR-10: "
    "its numbers are not those of CIFAR-10.",
}


def card(entry: Entry) -> str:
    """The card of one set of weights.

    Raises:
        WeightsError: its record is missing or altered.
    """
    record = read_record(entry) or {}
    parts = [
        f"# {_plain(entry.name)}",
        _opening(entry),
        _table(_measured(entry)),
        "## Training",
        _table(_training(entry)),
        _again(entry),
        "## Curves",
        _curves(record.get("curves", {})),
        "## Opening rates",
        _rates(entry, record),
        "## File",
        _table(_file(entry)),
        _limits(entry),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def index(entries: Sequence[Entry]) -> str:
    """A table of all cards, with links."""
    rows = [
        (
            f"[{_plain(entry.name)}]({_plain(file_name(entry))})",
            _plain(entry.dataset) or "–",
            _percent(entry.accuracy),
            _percent(entry.static_accuracy),
            _percent(entry.clean_saving),
            _percent(entry.spread),
        )
        for entry in entries
    ]
    head = ("weights", "data set", "accuracy", "static twin", "MACs saved", "spread over images")
    lines = [
        "# Model cards",
        "",
        "Written by `gatebench weights card --all --out docs/cards`.",
        "",
        _row(head),
        _row(["---"] * len(head)),
    ]
    return "\n".join([*lines, *(_row(row) for row in rows)]) + "\n"


def file_name(entry: Entry) -> str:
    """The name of a card's file."""
    return f"{entry.name}.md"


def _opening(entry: Entry) -> str:
    """What the network is, in its own words."""
    lines = [f"`{_plain(entry.target)}` with {_settings(entry.params) or 'default parameters'}."]
    try:
        facts = registry.find("target", entry.target).facts()
    except GatebenchError:
        return "\n".join(lines)
    lines.append(_plain(facts.summary) + "\n")
    for title, key in (("Unit", "unit"), ("Physically skipped", "skipped"), ("Follows", "follows")):
        if facts.constants.get(key):
            lines.append(f"- {title}: {_plain(str(facts.constants[key]))}")
    return "\n".join(lines)


def _measured(entry: Entry) -> list[tuple[str, str]]:
    return [
        (
            "measured on",
            _plain(str(entry.more.get("measured_on", ""))) or _plain(entry.dataset) or "–",
        ),
        ("accuracy", _percent(entry.accuracy)),
        ("accuracy of the static twin", _percent(entry.static_accuracy)),
        (
            "MACs with everything running (ceiling)",
            "–" if entry.ceiling is None else f"{entry.ceiling:,}",
        ),
        ("MACs saved on clean images", _percent(entry.clean_saving)),
        (
            "spread: standard deviation of executed MACs over images, share of the ceiling",
            _percent(entry.spread),
        ),
        (
            "units that run on 5 to 95 % of the images",
            "–" if entry.gates_varying is None else str(entry.gates_varying),
        ),
    ]


def _training(entry: Entry) -> list[tuple[str, str]]:
    start = entry.more.get("started_from")
    return [
        ("recipe, stage", f"{_plain(entry.recipe) or '–'}, {_plain(entry.stage) or '–'}"),
        ("data set", _plain(entry.dataset) or "–"),
        ("started from", _plain(str(start)) if start else "random weights"),
        ("seed", "–" if entry.seed is None else str(entry.seed)),
        ("epochs", "–" if entry.epochs is None else str(entry.epochs)),
        ("time", "–" if entry.seconds is None else f"{entry.seconds / 60:.1f} minutes"),
    ]


def _again(entry: Entry) -> str:
    """The commands that train it again, on a fresh installation."""
    settings = entry.more.get("training")
    if not isinstance(settings, Mapping):
        return ""
    declared = _declared(entry)
    chosen = [
        _set(key, value)
        for key, value in settings.items()
        if key not in _SETTINGS_ELSEWHERE and (declared is None or key in declared)
    ]
    dataset = "cifar10" if entry.dataset.startswith("cifar10") else entry.dataset
    if dataset in _IN_A_FOLDER:
        dataset = f"{dataset} --data-root FOLDER"
    start = entry.more.get("started_from")
    words = [
        f"gatebench train {entry.recipe} --stage {entry.stage} "
        f"--dataset {dataset} --seed {entry.seed}",
        *([f"--from {start}"] if start else []),
        *([f"--images {settings['images']}"] if settings.get("images") else []),
        f"--precision {settings.get('precision', 'bf16')}",
        *chosen,
    ]
    first = ""
    if start and start not in known_weights():
        stage = str(start).partition("@")[0].rpartition("-")[2]
        first = (
            f"It starts from {_plain(str(start))}, which does not come along; train that first:\n\n"
            f"```\ngatebench train {entry.recipe} --stage {stage} --dataset {dataset} "
            f"--seed {entry.seed}\n```\n\n"
        )
    lines, line = [], ""
    for word in words:
        if line and len(line) + len(word) > 100:
            lines.append(line + " \\")
            line = "    "
        line += ("" if not line.strip() else " ") + word
    return (
        first + "Train it again:\n\n```\n" + "\n".join([*lines, line]).replace("```", "") + "\n```"
    )


def _declared(entry: Entry) -> set[str] | None:
    """The settings that the recipe's stage has now; None where it is not installed."""
    try:
        stages: Mapping[str, Any] = registry.load("recipe", entry.recipe).stages
        return {one.name for one in dataclasses.fields(stages[entry.stage])}
    except (PlanError, PluginError, KeyError):
        return None


def _set(key: str, value: object) -> str:
    """A setting as a shell takes it: plain words as they are, booleans and lists as TOML."""
    plain = not isinstance(value, (bool, list))
    return f"--set {key}={value}" if plain else f"--set {shlex.quote(f'{key}={dump_value(value)}')}"


def _curves(curves: Mapping[str, Sequence[float]]) -> str:
    """A line a metric: its course in bars, its first and its last value."""
    if not curves:
        return "Not recorded."
    rows = [
        (_plain(name), _bars(values), f"{values[0]:.4g}", f"{values[-1]:.4g}")
        for name, values in curves.items()
        if values
    ]
    head = _row(("metric, mean over each epoch", "course", "first", "last"))
    return "\n".join([head, _row(["---"] * 4), *(_row(row) for row in rows)])


def _bars(values: Sequence[float]) -> str:
    """A bar a value; a dot where it is not finite."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0
    return "".join(
        _BARS[round((value - low) * scale)] if math.isfinite(value) else "·" for value in values
    )


def _rates(entry: Entry, record: Mapping[str, Any]) -> str:
    """Of each owner of units, how often they run on clean test images: mean, least and most."""
    if entry.opening_rates is None or not entry.opening_rates:
        return "Nothing can be left out."
    owners, rates = record.get("owners"), record.get("rates")
    if not owners or not rates:
        shares = ", ".join(f"{rate:.3f}" for rate in entry.opening_rates)
        return f"Share of test images that run each unit, in order: {shares}."
    rows, left = [], iter(rates)
    for name, kind, shape, count in owners:
        own = list(islice(left, count))
        size = "×".join(map(str, shape)) if shape else "1"
        rows.append(
            (
                _plain(str(name)),
                _plain(str(kind)),
                size,
                f"{sum(own) / count:.3f}",
                f"{min(own):.3f}",
                f"{max(own):.3f}",
            )
        )
    head = _row(("owner", "unit", "map", "mean share of images", "least", "most"))
    return "\n".join([head, _row(["---"] * 6), *(_row(row) for row in rows)])


def _file(entry: Entry) -> list[tuple[str, str]]:
    size = "–" if entry.bytes is None else f"{entry.bytes:,} bytes"
    return [
        ("file", _plain(entry.file)),
        ("size", size),
        ("sha256", f"`{entry.sha256}`"),
        ("licence", _plain(entry.licence)),
        *(row for part in entry.parts for row in _part(part)),
    ]


def _part(part: WeightsPart) -> list[tuple[str, str]]:
    """What lies elsewhere."""
    kept = f", {len(part.rows)} classes of the last layer" if part.rows else ""
    wanted = re.sub(r"[^\w.,\[\]=<>-]", "", part.install)  # in a code span nothing is escaped
    install = f", which `pip install '{wanted}'` brings" if wanted else ""
    return [
        (f"its {_plain(part.prefix)}… are in", f"{_plain(part.source)}{kept}{install}"),
        ("sha256 of that", f"`{part.sha256}`"),
        ("licence of that", _plain(part.licence)),
    ]


def _limits(entry: Entry) -> str:
    note = _NOTES.get(entry.dataset, "")
    return " ".join(
        [
            "Made for measuring attacks on computation and defenses against them; small, "
            "and not the state of the art.",
            note,
        ]
    ).strip()


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join([_row(("", "")), _row(("---", "---")), *(_row(row) for row in rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _settings(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{_plain(str(key))} = {_plain(str(value))}" for key, value in params.items())


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


_ENTITIES = {ord(sign): f"&#{ord(sign)};" for sign in "\\`*[]<>|#"}


def _plain(text: str) -> str:
    """Text that Markdown and HTML leave alone, on one line."""
    return " ".join(text.translate(_ENTITIES).split())
