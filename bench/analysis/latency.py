"""Wall-clock time of `execute`: what a defense costs where it multiplies nothing, and what skipping
saves.

Time is another thing on every machine and at every hour, so it is measured side by side: all
targets of a run take turns on the same images in one process with one thread, and what is reported
is the median, and its ratio to the same network without its defense. It is part of no key and no
rank.
"""

from __future__ import annotations

import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.analysis.same_target import build_same, check_target
from bench.codec import size_of
from bench.contracts.cell import Who, defended_name
from bench.contracts.target import Target
from bench.errors import ContractBroken, GatebenchError, PluginError, RunFolderError, in_words
from bench.evaluation.cost import audit
from bench.files.writing import COPY
from bench.image import to_float
from bench.plans.stored import read_plan
from bench.results.reading import FinishedCell, finished_cells
from bench.results.transfer import sealed_digest
from bench.store.documents import write_json
from bench.store.folder import CellFolder, RunFolder
from bench.store.latency import LATENCY, Latency, Machine, Timed
from bench.store.pictures import PICTURES, row_images


def measure(
    run: RunFolder,
    *,
    images: int = 16,
    repeats: int = 5,
    data_root: str | None = None,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda line: None,
) -> Latency:
    """Time every (target, defense) of a run and write latency.json into its folder.

    Args:
        run: the run's folder.
        images: of the run, at most; each executed on its own.
        repeats: rounds, in each of which every target takes a turn.
        data_root: where the data set lies, for defenses that learn.
        device: where to execute.
        tell: hears what is being done, and of cells that cannot be believed.

    Returns:
        What was written: for each (target, defense) the median over clean images, over those of its
        dearest attack, and the ratio of the first to the undefended target's.

    Raises:
        RunFolderError: nothing is finished, or a target is another one than the run's.
        ContractBroken: a target does not compute what it declares for an image that it has seen.
        PluginError: a target or its defense raises something.
    """
    groups: dict[Who, list[FinishedCell]] = {}
    for one in finished_cells(run, read_plan(run), whole=True, tell=tell)[0]:
        groups.setdefault(one.cell.who, []).append(one)
    found: dict[Who, tuple[Target, list[Tensor], list[Tensor]]] = {}
    sources: dict[str, str] = {}
    for who, cells in groups.items():
        tell(f"making {defended_name(*who)}")
        dearest = max(cells, key=lambda one: one.macs)
        with _plugin(who):
            target = build_same(dearest, data_root, device)
            check_target(dearest, target, images, device)
        pictures = _pictures(dearest.folder, images, size_of(target.image_shape))
        clean8, attacked8 = ([image[None].to(device) for image in part] for part in pictures)
        found[who] = target, clean8, attacked8
        sources[dearest.key] = sealed_digest(dearest.folder)
    if not found:
        raise RunFolderError(
            f"{run.path} has no finished cell to take images from", hint="'gatebench run' fills it"
        )
    clean: dict[Who, list[float]] = {who: [] for who in found}
    attacked: dict[Who, list[float]] = {who: [] for who in found}
    for round_ in range(repeats + 1):
        tell(f"round {round_} of {repeats}")
        for who, (target, plain, adversarial) in found.items():
            with _plugin(who):
                times = _timed(target, plain, device), _timed(target, adversarial, device)
            if round_:  # the first warms up
                clean[who] += times[0]
                attacked[who] += times[1]
    for who, (target, plain, adversarial) in found.items():
        with _plugin(who):
            _check_computed(who, target, [*plain, *adversarial])
    medians = {who: statistics.median(times) for who, times in clean.items()}
    result = Latency(
        _machine(device),
        tuple(
            Timed(
                target=who[0],
                defense=who[1],
                median_ms=round(1000 * medians[who], 4),
                adversarial_ms=round(1000 * statistics.median(attacked[who]), 4),
                ratio=round(medians[who] / medians[who[0], ""], 4)
                if who[1] and (who[0], "") in medians
                else None,
                images=len(found[who][1]),
                repeats=repeats,
            )
            for who in found
        ),
        sources,
    )
    write_json(run.path / LATENCY, result.document(), elsewhere=COPY)
    return result


def _pictures(folder: CellFolder, count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The first clean images of a cell, and the same under its attack.

    Args:
        folder: of the cell.
        count: how many, at most.
        size: (width, height) of what its target takes.

    Returns:
        Two tensors of (n, C, H, W) float in [0,1].

    Raises:
        RunFolderError: a picture is damaged or of another size.
    """
    rows = folder.table(["id", *PICTURES]).slice(0, count).to_pylist()
    clean, adversarial = (to_float(row_images(folder, rows, name, size)) for name in PICTURES)
    return clean, adversarial


@contextlib.contextmanager
def _plugin(who: Who) -> Iterator[None]:
    """Whatever a target raises meanwhile, an exit too, becomes an error that names it."""
    try:
        yield
    except (GatebenchError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(f"{defended_name(*who)} raised {in_words(error)}") from error


def _timed(target: Target, images: Sequence[Tensor], device: str) -> list[float]:
    """Seconds of each image."""
    found = []
    with torch.no_grad():
        for image in images:
            start = time.perf_counter()
            target.execute(image)
            if device != "cpu":  # which otherwise only queues its work
                torch.accelerator.synchronize(device)
            found.append(time.perf_counter() - start)
    return found


def _check_computed(who: Who, target: Target, images: Sequence[Tensor]) -> None:
    """Count an execution of images that were timed: looking up a result takes no time.

    Raises:
        ContractBroken: `execute` multiplies something else than `macs` declares.
    """
    for image in images:
        try:
            with torch.no_grad():
                audit(target, image)
        except ContractBroken as error:
            raise ContractBroken(
                f"{defended_name(*who)}: {error.message}", hint=error.hint
            ) from error


def _machine(device: str) -> Machine:
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
    return Machine(
        device=name,
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        python=platform.python_version(),
    )
