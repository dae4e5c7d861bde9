"""Can a run folder be believed? What was sealed is held against itself, and a random part of it is
executed again.

Somebody hands in a folder with images and rows. Whoever looks needs to trust nobody for this: the
plan's digest and keys are made anew, images and labels are those of the data set, distances come
from the pictures, sums and digests from the shards, costs from the decisions and from the target,
which is built again; and of every cell some images, that nobody could foresee, are evaluated again,
in the batch places that the run put them in, and must give the same predictions, decisions and
MACs, as integers. What an attack did to find its images is not repeated: an image counts for what
it makes the target execute.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.codec import size_of
from bench.contracts.attack import Attack, Skip
from bench.contracts.cell import Cell
from bench.contracts.dataset import Dataset
from bench.datasets.base import check_disjoint, subset, subset_digest
from bench.errors import GatebenchError, PlanError, RunFolderError
from bench.evaluation.build import build, build_defended, opened_dataset
from bench.evaluation.withheld import without_weights
from bench.executors.reads import Reads
from bench.files.canonical import canonical
from bench.image import difference, inside, psnr, squared_sum, ssim
from bench.plans.stored import StoredBoard, read_plan
from bench.results.ensemble import Row, member_keys, strongest, trace_in_turn
from bench.results.limits import exact
from bench.results.traces import is_thinned
from bench.runs.seal import aggregates
from bench.store.folder import CellFolder, RunFolder
from bench.store.measured import row_problems
from bench.store.pictures import PICTURES, row_images
from bench.store.provenance import sources
from bench.store.schema import check_table
from bench.store.sealed import Sealed
from bench.store.target import DatasetWords
from bench.verify.components import component_problems
from bench.verify.findings import Examined, Findings, examined, short
from bench.verify.provenance import made_elsewhere
from bench.verify.records import record_problems
from bench.verify.replay import execute_anew
from bench.weights.manifest import find


def verify(
    run: RunFolder,
    *,
    images: int | None = 8,
    seed: int,
    only: Sequence[str] = (),
    data_root: str | None = None,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda line: None,
) -> Findings:
    """Verify a run.

    Args:
        images: executed anew in each cell, clean and adversarial; None is all of them.
        seed: which ones; whoever made the run must not know it.
        only: parts of the labels of the cells to execute; the rest is read all the same.
        data_root: where the data set lies.
        device: where to execute.
        tell: hears of each cell.
    """
    plan = read_plan(run)
    found = Findings(seed)
    reads = Reads(Path(os.devnull))
    generator = np.random.Generator(np.random.PCG64(seed))
    if (made := plan.content_digest()) != plan.digest:
        found.problems.append(
            f"plan.json states the digest {plan.digest[:12]}…, its content has {made[:12]}…"
        )
    asked_for = not_drawn = 0
    left_out: list[str] = []
    for board in plan.boards:
        pinned = _Pinned.of(board, data_root, found)
        cells: dict[str, Examined] = {}
        for key, cell in board.cells.items():
            tell(cell.label)
            with examined(cell.label, found):
                one = _read(run, board, key, cell, pinned, device, reads, found)
                if one is not None:
                    cells[key] = one
        for one in cells.values():
            if one.cell.is_combined:
                with examined(one.label, found):
                    _check_combined(one, board.cells, cells, found)
        _check_skipped(run, board, cells, data_root, found)
        chosen = [
            one for one in cells.values() if not only or any(part in one.label for part in only)
        ]
        asked_for += len(chosen)
        labels = {one.label for one in chosen}
        left_out += [one.label for one in cells.values() if one.label not in labels]
        words = pinned.words if pinned is not None else None
        readable = [one for one in chosen if one.readable]
        execute_anew(readable, images, generator, data_root, device, found, tell, words)
        if images is not None:
            not_drawn += sum(max(len(one.rows) - images, 0) for one in readable)
    found.note_unchecked(left_out, not_drawn)
    if not found.images:
        found.problems.append("there are no rows to verify")
    elif only and not asked_for:
        found.problems.append(f"no cell has {' or '.join(only)} in its label: nothing was executed")
    return found


@dataclass(frozen=True)
class _Pinned:
    """The images that a board must be about.

    Attributes:
        dataset: of the board.
        ids: of its images, in order.
        places: id -> place in the data set.
    """

    dataset: Dataset
    ids: tuple[str, ...]
    places: Mapping[str, int]

    @property
    def words(self) -> tuple[DatasetWords, tuple[str, ...]]:
        """What the data set says of itself, and its classes."""
        data = self.dataset
        return DatasetWords(str(data), data.note, tuple(data.credits)), tuple(data.classes)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of its images."""
        return size_of(self.dataset.image_shape)

    @classmethod
    def of(cls, board: StoredBoard, data_root: str | None, found: Findings) -> _Pinned | None:
        """From the data set; None where it cannot be opened here, which is said."""
        protocol = board.protocol
        try:
            dataset = opened_dataset(protocol.dataset, data_root)
            chosen = subset(dataset, protocol.images)
            made = {"dataset": str(dataset), "subset": subset_digest(dataset, chosen)}
            fits = any(cell.fits for cell in board.cells.values())
            made["fit_subset"] = ""
            if fits:
                fit = opened_dataset(protocol.fit_dataset, data_root)
                fitted = subset(fit, protocol.fit.images)
                made["fit_subset"] = subset_digest(fit, fitted)
                _check_fit(fit, fitted, dataset, chosen, found)
        except GatebenchError as error:
            found.remarks.append(
                f"images and labels were not held against the data set: {error.message}"
            )
            return None
        found.problems += [
            f"plan.json: its {name} is not that of the data set"
            for name, value in made.items()
            if getattr(board, name) != value
        ]
        return cls(
            dataset, tuple(dataset.ids[i] for i in chosen), {dataset.ids[i]: i for i in chosen}
        )


def _check_fit(
    fit: Dataset,
    fitted: Sequence[int],
    scored: Dataset,
    chosen: Sequence[int],
    found: Findings,
) -> None:
    """Images of the fit must not be scored."""
    try:
        check_disjoint(fit, fitted, scored, chosen, f"the fit on {fit}")
    except PlanError as error:
        found.problems.append(error.message)


def _read(
    run: RunFolder,
    board: StoredBoard,
    key: str,
    cell: Cell,
    pinned: _Pinned | None,
    device: str,
    reads: Reads,
    found: Findings,
) -> Examined | None:
    """What can be said of a cell without executing anything; None where there are no rows."""
    label, folder = cell.label, run.cell(key)

    def wrong(text: str) -> None:
        found.problems.append(f"{label}: {text}")

    def remark(text: str) -> None:
        found.remarks.append(f"{label}: {text}")

    if (made := board.key(cell)) != key:
        wrong(f"its key is {key[:12]}…, but what the plan says of it makes {made[:12]}…")
    if cell.target.digest and cell.target.digest != find(cell.target.weights).digest:
        wrong(f"its weights {cell.target.weights} have another digest than those that are here")
    if cell.excluded:
        found.remarks.append(f"{label} was excluded: {cell.excluded}")
        return None
    sealed = folder.sealed()
    if sealed is None:
        wrong("is not finished")
        return None
    if canonical(sealed.inputs) != canonical(cell.inputs()) or sealed.key != key:
        wrong("cell.json was made with other inputs than plan.json says")
    if sealed.status != "ok":
        if sealed.status != "skipped":
            found.remarks.append(f"{label} is {sealed.status}: {sealed.reason}")
        return None
    if sealed.reason or sealed.detail:
        wrong("cell.json gives a reason or a detail, though the cell is ok")
    for name in folder.altered(sealed.shards):
        wrong(f"{name} is missing, or not what was sealed")
    found.cells += 1
    table = folder.table()
    found.images += table.num_rows
    elsewhere = list(made_elsewhere(cell, sealed, device, reads))
    found.remarks += [text for text in elsewhere if text not in found.remarks]
    _check_components(cell, sealed, found)
    try:
        check_table(table, cell.protocol.images)
    except ValueError as error:
        wrong(str(error))
    rows = table.to_pylist()
    if pinned is not None and tuple(row["id"] for row in rows) != pinned.ids:
        wrong("its images are not the first of the data set, in their order")
    sums = aggregates(table)
    stated = sealed.aggregates
    if differ := [name for name in {**sums, **stated} if sums.get(name) != stated.get(name)]:
        said, added = stated.get(differ[0]), sums.get(differ[0])
        wrong(f"cell.json says {differ[0]} = {said}, the rows add up to {added}")
    target = folder.target()
    size = pinned.size if pinned is not None else target.picture_size
    pictures: tuple[Tensor, Tensor] | None = None
    if size is None:
        remark("its pictures were not held against its rows, since nothing here says their size")
    elif rows:
        try:
            pictures = _decoded(folder, rows, size)
        except RunFolderError as error:
            wrong(f"{error.message}; nothing of this cell is executed")
    if pictures is not None:
        for problem in _pictures(rows, *pictures, cell, pinned):
            wrong(problem)
    for problem in row_problems(table, cell, target, sealed.combination):
        wrong(problem)
    for problem in record_problems(run, folder, board.cells, sealed, table, remark):
        wrong(problem)
    readable = size is None or pictures is not None
    return Examined(cell, folder, rows, target, bool(elsewhere), readable)


def _check_components(cell: Cell, sealed: Sealed, found: Findings) -> None:
    """What the plan says of a cell's components; with other code here it may well differ."""
    stated, here = sealed.environment.get("sources", {}), sources(cell)
    for kind, part in cell.parts.items():
        where = found.problems if stated.get(kind) == here.get(kind) else found.remarks
        where += [text for text in component_problems(kind, part) if text not in where]


def _decoded(
    folder: CellFolder, rows: Sequence[Row], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(clean, saved) images of a cell, each (N, C, H, W) uint8.

    Raises:
        RunFolderError: a picture is damaged or of another size.
    """
    clean, saved = (row_images(folder, rows, name, size) for name in PICTURES)
    if clean.shape != saved.shape:
        raise RunFolderError(f"{folder.path}: clean and saved pictures are not both gray or RGB")
    return clean, saved


def _pictures(
    rows: Sequence[Row], clean: Tensor, saved: Tensor, cell: Cell, pinned: _Pinned | None
) -> Iterator[str]:
    """What the pictures say against the rows, the threat and the data set; the first image of each
    kind."""
    threat = cell.protocol.threat
    d = difference(saved, clean)
    total = squared_sum(d)
    stated = {
        "linf": d.flatten(1).abs().amax(1).to(torch.float64),
        "squared": total.to(torch.float64),
        "l2": total.to(torch.float64).sqrt() / 255,
        "psnr": psnr(total, d[0].numel()),
        "ssim": ssim(saved, clean),
    }
    checks: dict[str, tuple[Tensor, Callable[[int], str]]] = {
        "threat": (inside(d, threat), lambda i: f"lies outside {threat}")
    }
    for name, values in stated.items():
        rowed = torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)
        holds = (rowed - values).abs() <= 1e-5 * values.abs().clamp(min=1)
        checks[name] = (holds, partial(_stated_otherwise, rows, name, values))
    if pinned is not None and all(row["id"] in pinned.places for row in rows):
        places = [pinned.places[row["id"]] for row in rows]
        same = (pinned.dataset.images(places) == clean).flatten(1).all(1)
        labels = pinned.dataset.labels[places].tolist()
        checks["data"] = same, lambda i: "its clean picture is not the data set's"
        agree = torch.tensor(
            [row["label"] == label for row, label in zip(rows, labels, strict=True)]
        )
        checks["label"] = (
            agree,
            lambda i: f"label is {rows[i]['label']}, the data set says {labels[i]}",
        )
    for holds, text in checks.values():
        if not bool(holds.all()):
            first = int((~holds).nonzero()[0])
            yield f"image {rows[first]['id']}: {text(first)}"


def _check_skipped(
    run: RunFolder,
    board: StoredBoard,
    cells: Mapping[str, Examined],
    data_root: str | None,
    found: Findings,
) -> None:
    """Ask again whether attacks that were skipped do not run there.

    An ensemble is skipped only where all of its members are.
    """
    for key, cell in board.cells.items():
        if key in cells or cell.excluded:
            continue
        with examined(cell.label, found):
            sealed = run.cell(key).sealed()
            if sealed is None or sealed.status != "skipped":
                continue
            if cell.is_combined:
                members = [run.cell(name).sealed() for name in member_keys(cell, board.cells)]
                if any(member and member.status == "ok" for member in members):
                    found.problems.append(
                        f"{cell.label}: is skipped, though members of it have numbers"
                    )
                continue
            target = build_defended(cell, data_root)
            attack: Attack = build("attack", cell.attack)
            if not isinstance(attack.supports(without_weights(target), cell.protocol.threat), Skip):
                found.problems.append(
                    f"{cell.label}: is skipped ({sealed.reason}), but the attack does run there"
                )


def _check_combined(
    one: Examined, all_cells: Mapping[str, Cell], cells: Mapping[str, Examined], found: Findings
) -> None:
    """An ensemble's rows must be those of its members."""
    members = [cells[key].rows for key in member_keys(one.cell, all_cells) if key in cells]
    if not members or any(len(rows) != len(one.rows) for rows in members):
        found.problems.append(f"{one.label}: its members are not there")
        return
    for row, *candidates in zip(one.rows, *members, strict=True):
        best = strongest(candidates)[0]
        differ = [name for name in best if best[name] != row[name] and name != "trace"]
        points = [(point["evaluations"], point["macs"], point["squared"]) for point in row["trace"]]
        if not differ and not is_thinned(points, trace_in_turn(candidates)):
            differ = ["trace"]
        if differ:
            said, made = short(row[differ[0]]), short(best[differ[0]])
            found.problems.append(
                f"{one.label}: image {row['id']}: {differ[0]} is {said}, "
                f"its strongest member has {made}"
            )
            return


def _stated_otherwise(rows: Sequence[Row], name: str, values: Tensor, i: int) -> str:
    return f"{name} is {rows[i][name]}, its pictures say {exact(float(values[i]))}"
