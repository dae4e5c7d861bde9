"""Wall-clock time of `execute`: what a defence costs where it multiplies nothing, and what skipping saves.

Time is another thing on every machine and at every hour, so it is measured side by side: all targets of a run take turns on the same
images in one process with one thread, and what is reported is the median, and its ratio to the same network without its defence. It is
part of no key and no rank.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.codec import decoded
from bench.contracts.target import Target
from bench.errors import RunFolderError
from bench.evaluation import target_checks
from bench.evaluation.build import build_defended
from bench.image import to_float
from bench.store.folder import LATENCY, RunFolder, write_json

SCHEMA = 1

Who = tuple[str, str]


def measure(
    run: RunFolder,
    *,
    images: int = 16,
    repeats: int = 5,
    data_root: str | None = None,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time every (target, defence) of a run and write latency.json into its folder.

    Args:
        images: of the first board, each executed on its own. repeats: rounds, in each of which everybody takes a turn.

    Returns:
        The document: machine, and for each (target, defence) milliseconds on clean images (`median_ms`), on those of its
        dearest attack (`adversarial_ms`), and the ratio of the first to the undefended target's (None for that itself).

    Raises:
        RunFolderError: nothing is finished.
    """
    board = run.plan()["boards"][0]
    entries = {
        (entry["target"]["label"], entry["defense"]["label"] if entry["defense"] else ""): {
            **entry,
            "protocol": board["protocol"],
        }
        for entry in reversed(board["cells"])
        if not entry["excluded"]
    }
    found: dict[Who, tuple[Target, list[Tensor], list[Tensor]]] = {}
    for who in reversed(list(entries)):
        pictures = _pictures(run, board, who, images)
        if pictures is None:
            continue
        tell(f"making {' + '.join(part for part in who if part)}")
        target = build_defended(entries[who], data_root)
        target.to(torch.device(device))
        target_checks.freeze(target)
        clean8, attacked8 = ([image[None].to(device) for image in part] for part in pictures)
        found[who] = target, clean8, attacked8
    if not found:
        raise RunFolderError(
            f"{run.path} has no finished cell to take images from", hint="'gatebench run' fills it"
        )
    clean: dict[Who, list[float]] = {who: [] for who in found}
    attacked: dict[Who, list[float]] = {who: [] for who in found}
    for round_ in range(repeats + 1):
        tell(f"round {round_} of {repeats}")
        for who, (target, plain, adversarial) in found.items():
            times = _timed(target, plain, device), _timed(target, adversarial, device)
            if round_:  # the first warms up
                clean[who] += times[0]
                attacked[who] += times[1]
    medians = {who: statistics.median(times) for who, times in clean.items()}
    document = {
        "schema": SCHEMA,
        "machine": _machine(device),
        "entries": [
            {
                "target": who[0],
                "defense": who[1],
                "median_ms": round(1000 * medians[who], 4),
                "adversarial_ms": round(1000 * statistics.median(attacked[who]), 4),
                "ratio": round(medians[who] / medians[who[0], ""], 4)
                if who[1] and (who[0], "") in medians
                else None,
                "images": images,
                "repeats": repeats,
            }
            for who in found
        ],
    }
    write_json(run.path / LATENCY, document)
    return document


def _pictures(
    run: RunFolder, board: Mapping[str, Any], who: Who, count: int
) -> tuple[Tensor, Tensor] | None:
    """((n, C, H, W) clean, the same under the dearest finished attack); None where none is finished."""
    best: tuple[int, Sequence[Mapping[str, Any]]] | None = None
    for entry in board["cells"]:
        if (entry["target"]["label"], entry["defense"]["label"] if entry["defense"] else "") != who:
            continue
        folder = run.cell(entry["key"])
        sealed = folder.sealed()
        if (
            sealed is not None
            and sealed["status"] == "ok"
            and (best is None or sealed["aggregates"]["adversarial_macs"] > best[0])
        ):
            best = (
                sealed["aggregates"]["adversarial_macs"],
                folder.table(["image", "adversarial"]).slice(0, count).to_pylist(),
            )
    if best is None:
        return None
    clean, adversarial = (
        [row[name]["bytes"] for row in best[1]] for name in ("image", "adversarial")
    )
    return to_float(decoded(clean)), to_float(decoded(adversarial))


def _timed(target: Target, images: Sequence[Tensor], device: str) -> list[float]:
    """Seconds of each image."""
    found = []
    with torch.no_grad():
        for image in images:
            start = time.perf_counter()
            target.execute(image)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            found.append(time.perf_counter() - start)
    return found


def _machine(device: str) -> dict[str, Any]:
    """What times may be compared within."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        lines = (
            Path("/proc/cpuinfo").read_text().splitlines()
            if Path("/proc/cpuinfo").is_file()
            else []
        )
        name = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
            platform.machine(),
        )
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
