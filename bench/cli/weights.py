"""`gatebench weights`: list, verify and import weights; write their cards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from bench.cli.options import data_root_option, device_option
from bench.terminal import FittedColumn, FittedTable, cell, console, page, say

if TYPE_CHECKING:
    from torch import Tensor

    from bench.weights.entry import Entry
    from bench.weights.parts import WeightsPart

Translate: TypeAlias = "Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]"


_COLUMNS = (
    FittedColumn("name", name=True),
    FittedColumn("accuracy"),
    FittedColumn("static", 2),
    FittedColumn("saving"),
    FittedColumn("spread", 1),
    FittedColumn("MB", 4),
    FittedColumn("from", 3, name=True),
)


@click.group("weights")
def weights() -> None:
    """List, verify and import weights.

    Shipped weights come with gatebench and its plugins; your own lie in GATEBENCH_HOME/weights.
    """


@weights.command("list")
def list_weights() -> None:
    """Show all weights with what is known of them.

    Accuracy and saving are on clean test images; spread is the standard deviation of the executed
    MACs between images, as a share of the ceiling. A dash is something that was not measured.
    Nothing is read but the manifests.
    """
    from bench import weights as store

    found = store.entries()
    if found:
        from rich.padding import Padding

        out = console()
        rows = [
            [
                name,
                *map(percent, (entry.accuracy, entry.static_accuracy)),
                *map(percent, (entry.clean_saving, entry.spread)),
                f"{entry.bytes / 1e6:.1f}" if entry.bytes is not None else "-",
                entry.origin,
            ]
            for name, entry in found.items()
        ]
        table = FittedTable(_COLUMNS, rows, out.width)
        for number, (row, entry) in enumerate(zip(rows, found.values(), strict=True)):
            out.print(table.table([row], heads=number == 0))
            out.print(Padding(cell(_story(entry), "dim"), (0, 0, 0, 2)))
    else:
        say(
            "no weights yet; 'gatebench train' makes some, 'gatebench weights import' "
            "brings some in"
        )
    for manifest in store.manifests():
        if manifest.problem:
            say(f"left out, from {manifest.origin}: {manifest.problem}", err=True)


@weights.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
def verify(names: tuple[str, ...]) -> None:
    """Check the digest of every weights file, or of those named.

    Ends with exit code 3 if any file or manifest is missing, cut short or altered; all are checked
    before. Weights on a package that is not installed are told, and count where they are named.
    """
    from bench import weights as store
    from bench.errors import WeightsError

    chosen = {name: store.find(name) for name in names} if names else store.entries()
    problems = (
        []
        if names
        else [
            f"{manifest.origin}: {manifest.problem}"
            for manifest in store.manifests()
            if manifest.problem
        ]
    )
    for name, entry in chosen.items():
        try:
            store.read_record(entry)
            store.check_files(entry)
        except store.NotInstalled as error:
            if names:
                problems.append(f"{error.message}; {error.hint}")
            say(f"-    {name}: {error.message.partition(': ')[2]}; {error.hint}")
        except WeightsError as error:
            problems.append(error.message)
            say(f"BAD  {name}")
        else:
            say(f"ok   {name}")
    if problems:
        raise WeightsError(
            "\n".join(problems), hint="restore the files, or train or import these weights again"
        )


@weights.command("import")
@click.argument("source", metavar="SOURCE")
@click.option("--target", required=True, help="The network, as in a plan: NAME, or NAME:PRESET.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of the network; may be repeated.",
)
@click.option("--as", "name", required=True, help="Name of the weights from now on.")
@click.option("--dataset", default="", help="The data set they were trained on.")
@click.option(
    "--part",
    default="",
    metavar="NAME",
    help="The state to take from a file that holds several, such as model_ema.",
)
@click.option(
    "--rows",
    default="",
    metavar="N,N,…",
    help="Classes of the last layer to keep, by their numbers, in this order.",
)
@click.option(
    "--licence", default="", help="SPDX identifier of their licence, where the source has none."
)
def import_weights(
    source: str,
    target: str,
    settings: tuple[str, ...],
    name: str,
    dataset: str,
    part: str,
    rows: str,
    licence: str,
) -> None:
    """Import a checkpoint made elsewhere.

    SOURCE is a file of torch (.pth, .pth.tar), safetensors, or TensorFlow variables by name (.npz);
    or hub:MODEL, what timm knows for a model (fetched, unless it lies in the cache); or
    package:MODULE/PATH, a file in an installed package, which stays there: the manifest says where.

    No code in it is run. What trainers wrap around a state dictionary is opened, prefixes of
    wrappers are dropped, and what is left out is said. The rest is translated by the network,
    checked name by name and shape by shape, and stored as safetensors in GATEBENCH_HOME/weights.

    \b
    Example:
      gatebench weights import resnet-110-rnn-sp-cifar10.pth.tar \\
          --target skipnet --set depth=110 --as skipnet-110-official
      gatebench weights import sact-cifar10.npz \\
          --target sact --set depth=32 --as sact-32-official
      gatebench weights import hub:resnet18.a1_in1k --target sdn --as resnet18-static@imagenet \\
          --set backbone=resnet18 --set exits=none --dataset imagenet
    """
    from bench import weights as store
    from bench.errors import PlanError, WeightsError
    from bench.files.home import weights_home
    from bench.weights.checkpoint import read_checkpoint
    from bench.weights.place import placed
    from bench.weights.sources import PACKAGE, file_digest, locate

    if not store.NAME.fullmatch(name):
        raise PlanError(
            f"--as {name}: small letters, digits and . _ @ + -, at most 96, a letter or digit first"
        )
    there = store.entries().get(name)
    if there is not None and (there.origin != "own" or _is_whole(there)):
        raise PlanError(
            f"--as {name}: there are weights of that name already",
            hint="'gatebench weights list' shows them",
        )
    base, kind, parameters = _network(target, settings)
    translate: Translate | None = getattr(kind, "from_official", None)
    network = kind(**_arguments(parameters))

    def fits(state: Mapping[str, Tensor]) -> bool:
        try:
            return not store.mismatches(network, translate(state) if translate else state)
        except Exception:  # a translation that is asked about the weights of another network
            return False

    located = locate(source)
    file = located.path
    checkpoint = read_checkpoint(file, part=part, fits=fits)
    elsewhere: list[WeightsPart] = []
    licence = licence or located.licence
    digest = file_digest(file)
    inner = placed(network, checkpoint.state, source, _rows(rows))
    if inner is not None:
        state: Mapping[str, Tensor] = {**network.state_dict(), **inner[1]}
        if source.startswith(PACKAGE):
            elsewhere.append(replace(inner[0], sha256=digest, licence=licence))
    else:
        state = translate(checkpoint.state) if translate else checkpoint.state
    try:
        store.load_into(network, state, f"the weights in {file}")
    except WeightsError as error:
        shown = ", ".join(f"{key} = {value}" for key, value in parameters.items())
        raise WeightsError(
            error.message, hint=f"the network asked for has {shown}; --set changes that"
        ) from error
    say(
        f"read     {len(checkpoint.state)} tensors"
        + "".join(f", {key} {value}" for key, value in checkpoint.facts.items())
    )
    for line in checkpoint.left_out:
        say(f"left out {line}")
    for line in _mapping(checkpoint.state, state, bool(translate)):
        say(f"mapped   {line}")
    values: dict[str, Any] = {
        "target": base,
        "params": parameters,
        "dataset": dataset,
        "licence": licence,
        "recipe": "imported",
    }
    entry = store.add_entry(
        weights_home(),
        name,
        network.state_dict(),
        {**values, "source_file": file.name, "source_sha256": digest},
        parts=elsewhere,
    )
    say(
        f"wrote    {entry.path} ({len(state)} tensors, {(entry.bytes or 0) / 1e6:.1f} MB, "
        f"sha256 {entry.sha256[:12]}…)"
    )
    say(f'use it   [[target]]\n         use = "{base}"\n         weights = "{name}"')


def _network(target: str, settings: tuple[str, ...]) -> tuple[str, Any, dict[str, Any]]:
    """(name, class, parameters) of the network that `--target` and `--set` ask for.

    Raises:
        PlanError: it is unknown, or has no such preset or parameter.
    """
    from bench.errors import PlanError, did_you_mean
    from bench.files.toml import read_setting
    from bench.plugins import registry
    from bench.plugins.parameters import resolve_params

    base, colon, preset = target.partition(":")
    provider = registry.find("target", base, where="--target")
    facts = provider.facts()
    if colon and preset not in facts.presets:
        raise PlanError(
            f"--target {target}: {base} has no preset {preset!r}"
            f"{did_you_mean(preset, facts.presets)}"
        )
    given = {
        **(facts.presets[preset] if colon else {}),
        **dict(read_setting(text, "depth=110") for text in settings),
    }
    parameters = resolve_params(facts.parameters, given, "--set")
    return base, provider.load(), parameters


@weights.command("measure")
@click.argument("name")
@click.option(
    "--dataset", default=None, metavar="NAME:SPLIT", help="Default: the test split it belongs to."
)
@click.option("--images", type=click.IntRange(min=1), help="How many; all unless given.")
@data_root_option()
@device_option("Where to evaluate")
def measure_weights(
    name: str, dataset: str | None, images: int | None, data_root: Path | None, device: str
) -> None:
    """Measure weights of your own on clean images: accuracy, saving, and how often gates open.

    Writes it into the manifest, where 'gatebench weights list' and model cards show it, and warns
    where the numbers look as if a threshold or another parameter is not the one of the training.
    """
    from bench import weights as store
    from bench.contracts.dataset import Part
    from bench.datasets.base import check_classes, open_dataset, subset
    from bench.errors import PlanError
    from bench.evaluation.outputs import freeze
    from bench.plugins import registry
    from bench.training.evaluate import doubts, measure
    from bench.training.results import measured_values
    from bench.training.results import record as noted

    entry = store.find(name)
    if entry.origin != "own":
        raise PlanError(
            f"{name} comes from {entry.origin}, whose manifest is not yours to write",
            hint=f"'gatebench weights card {name}' shows what was measured",
        )
    if dataset is None and not entry.dataset:
        raise PlanError(f"nobody said which data {name} belongs to", hint="give --dataset")
    data = open_dataset(dataset or f"{entry.dataset}:test", Path(data_root) if data_root else None)
    target = registry.load("target", entry.target)(**_arguments(entry.params))
    state = store.read_state(entry)
    store.load_into(target, state)
    check_classes(name, target.classes, data)
    freeze(target)
    part = Part(data, tuple(subset(data, images or len(data))))
    measured = measure(target.to(device), part)
    where = f"{data} ({len(part)} images)"
    before = store.read_record(entry) or {}
    kept = {
        key: value
        for key, value in vars(entry).items()
        if value is not None and key not in _WRITTEN
    }
    store.add_entry(
        entry.folder,
        name,
        state,
        {**kept, "more": {**entry.more, "measured_on": where}, **measured_values(measured, where)},
        {**noted([], measured), **({"curves": before["curves"]} if before else {})},
        parts=entry.parts,
    )
    say(f"{name} on {where}")
    say(
        f"accuracy {percent(measured.accuracy)}, saves {percent(measured.clean_saving)} "
        f"(spread {percent(measured.spread)}), {measured.gates_varying} of "
        f"{len(measured.rates)} gates vary"
    )
    for doubt in doubts(measured, target.classes):
        say(f"warning: {doubt}", err=True, color="yellow")


_WRITTEN = ("name", "folder", "origin", "file", "sha256", "bytes", "record", "record_sha256",
            "parts", "more", "opening_rates")  # fmt: skip
"""Fields of an entry that are written anew."""


@weights.command("card")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="All weights that come with gatebench.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a file each, and README.md as their index.",
)
def write_cards(names: tuple[str, ...], everything: bool, out: Path | None) -> None:
    """Print the model card of weights, or write it.

    A card tells network, training, curves, accuracy, savings and opening rates.

    \b
    gatebench weights card skipnet-20-budget@digits-m
    gatebench weights card --all --out docs/cards
    """
    from bench import weights as store
    from bench.errors import DiskError, PlanError
    from bench.files.atomic import write_atomic
    from bench.weights import cards

    if bool(names) == everything:
        raise PlanError(
            "name the weights, or say --all", hint="'gatebench weights list' shows what there is"
        )
    known = store.entries().values()
    chosen = (
        [entry for entry in known if entry.origin == "gatebench"]
        if everything
        else [store.find(name) for name in names]
    )
    pages = {cards.file_name(entry): cards.card(entry) for entry in chosen}
    if out is None:
        page("\n".join(pages.values()))
        return
    if everything:
        pages["README.md"] = cards.index(chosen)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot make {out}: {error.strerror}") from error
    for name, text in pages.items():
        write_atomic(out / name, text.encode())
    say(f"wrote {len(pages)} files to {out}")


def _is_whole(entry: Entry) -> bool:
    """Whether the file of these weights is there, as it was written.

    One that is not may be replaced.
    """
    from bench import weights as store
    from bench.errors import WeightsError

    try:
        store.read_bytes(entry)
    except WeightsError:
        return False
    return True


def _rows(text: str) -> tuple[int, ...]:
    """The numbers of `--rows`.

    Raises:
        PlanError: they are none.
    """
    from bench.errors import PlanError

    try:
        found = tuple(int(one) for one in text.split(",") if one.strip())
    except ValueError as error:
        raise PlanError(f"--rows {text}: whole numbers with commas between them") from error
    if any(one < 0 for one in found) or len(set(found)) != len(found):
        raise PlanError(f"--rows {text}: each class once, from 0 on")
    return found


def _arguments(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as the class takes them: arrays come as tuples."""
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in parameters.items()
    }


def _mapping(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    translated: bool,
) -> list[str]:
    """What became of the names, in a few lines."""
    kept = before.keys() & after.keys()
    lines = [f"{len(kept)} tensors under their own names"]
    if translated:
        dropped, added = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
        counters = [key for key in added if key.endswith("num_batches_tracked")]
        renamed = [key for key in added if key not in set(counters)]
        groups = (
            ("left out or renamed", dropped),
            ("new names", renamed),
            ("counters that old torch did not save, set to 0", counters),
        )
        lines += [
            f"{len(keys)} {what}: {', '.join(keys[:4])}{' …' if len(keys) > 4 else ''}"
            for what, keys in groups
            if keys
        ]
    return lines


def _story(entry: Entry) -> str:
    """Network, data set and recipe in a line."""
    parameters = " ".join(f"{key}={value}" for key, value in entry.params.items())
    parts = [
        f"{entry.target} {parameters}".strip(),
        entry.dataset and f"on {entry.dataset}",
        " ".join((entry.recipe, entry.stage)).strip(),
    ]
    return ", ".join(part for part in parts if part)


def percent(value: float | None) -> str:
    """A share as a person reads it, a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f} %"
