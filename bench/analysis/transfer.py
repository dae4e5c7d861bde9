"""Transfer: the saved images of one target, scored on all others of the same board, from sealed
cells.

Nothing is attacked again: pictures are read from the source's shards, and every other target of the
board says what it would execute on them. transfer.parquet in the run's folder holds one row an
image and pair.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.analysis.apart import apart
from bench.analysis.same_target import build_same, check_target
from bench.codec import size_of
from bench.contracts.cell import Protocol, Who
from bench.contracts.target import Target
from bench.datasets.base import padded
from bench.errors import PlanError, RunFolderError, did_you_mean
from bench.evaluation.score import score
from bench.files.atomic import write_atomic
from bench.files.canonical import canonical
from bench.files.writing import COPY
from bench.image import to_float
from bench.plans.stored import StoredBoard, read_plan
from bench.results.reading import FinishedCell, finished_cells
from bench.results.transfer import FILE, SCHEMA, BoardPlace, readable_digest, sealed_digest
from bench.store.folder import CellFolder, RunFolder
from bench.store.pictures import row_images


def transfer(
    folder: RunFolder,
    *,
    attack: str | None = None,
    device: str = "cpu",
    data_root: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Score every source's pictures on every target of its board that has numbers there.

    Args:
        attack: label of the attack whose pictures are taken; by default, on each source, the one
            that made it dearest.
        device: where to evaluate.
        data_root: of the data set, for defenses that learn.
        tell: hears of each pair, and of cells that cannot be believed.

    Returns:
        The file written.

    Raises:
        PlanError: no attack is labelled so.
        RunFolderError: no cell is finished, or a target is another one than the run's.
    """
    plan = read_plan(folder)
    rows: list[dict[str, Any]] = []
    digests: dict[str, str] = {}
    witnesses: dict[str, str] = {}
    places: dict[str, BoardPlace] = {}
    finished = finished_cells(folder, plan, whole=True, tell=tell)
    for number, (board, cells) in enumerate(zip(plan.boards, finished, strict=True)):
        _check_attack(board, attack)
        sources = _sources(cells, attack)
        victims = {one.cell.defended: one for one in cells}
        digests |= {source.key: sealed_digest(source.folder) for source in sources}
        witnesses |= _witnesses(folder, board)
        places |= {
            key: BoardPlace(number, cell.defended, cell.attack.label)
            for key, cell in board.cells.items()
            if key in digests or key in witnesses
        }
        for name, victim in victims.items():
            for source in sources:
                tell(f"{source.cell.label} on {name}")
            # A plugin may change the folder that its process works in.
            there = replace(victim, folder=CellFolder(victim.folder.path.absolute()))
            folders = [CellFolder(source.folder.path.absolute()) for source in sources]
            scored = apart(victim.cell, _scored, there, folders, device, data_root)
            for source, found in zip(sources, scored, strict=True):
                head = {
                    "board": number,
                    "source": source.cell.defended,
                    "attack": source.cell.attack.label,
                    "victim": name,
                }
                rows += [{**head, "id": name, "macs": cost} for name, cost in found]
    if not rows:
        raise RunFolderError(
            f"{folder.path} has no finished cell whose pictures could be tried elsewhere",
            hint="'gatebench run' fills it",
        )
    made = {
        "sources": digests,
        "victims": witnesses,
        "places": {key: asdict(place) for key, place in places.items()},
    }
    metadata = {"gatebench": canonical({"schema": 1, **made}).decode()}
    buffer = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata)),
        buffer,
        compression="zstd",
        write_statistics=False,
    )
    write_atomic(folder.path / FILE, buffer.getvalue(), elsewhere=COPY)
    return folder.path / FILE


def _witnesses(folder: RunFolder, board: StoredBoard) -> dict[str, str]:
    """Key -> digest of one cell of every target, which changes where the target does; a control
    where there is one, since it changes with nothing else."""
    found: dict[Who, tuple[str, str]] = {}
    for key, cell in sorted(board.cells.items(), key=lambda one: not one[1].attack.control):
        if cell.who not in found and (digest := readable_digest(folder.cell(key))):
            found[cell.who] = key, digest
    return dict(found.values())


def _check_attack(board: StoredBoard, attack: str | None) -> None:
    """Refuse an attack that the board has not."""
    labels = [cell.attack.label for cell in board.cells.values()]
    if attack is not None and attack not in labels:
        raise PlanError(
            f"--attack {attack}: no attack of this run is labelled so{did_you_mean(attack, labels)}"
        )


def _sources(cells: Sequence[FinishedCell], attack: str | None) -> list[FinishedCell]:
    """The chosen cell of every target of a board."""
    groups: dict[Who, list[FinishedCell]] = {}
    for one in cells:
        if one.cell.attack.control if attack is None else one.cell.attack.label != attack:
            continue
        groups.setdefault(one.cell.who, []).append(one)
    return [max(found, key=lambda source: source.macs) for found in groups.values()]


def _scored(
    victim: FinishedCell, sources: Sequence[CellFolder], device: str, root: str | None
) -> list[list[tuple[str, int]]]:
    """(id, executed MACs on a target) of each saved picture of some cells, a list a cell."""
    target = build_same(victim, root, device)
    protocol = victim.cell.protocol
    check_target(victim, target, protocol.images, device)
    found = []
    for folder in sources:
        rows = folder.table(["id", "adversarial"]).to_pylist()
        macs = _macs(target, folder, rows, protocol, device)
        found.append([(str(row["id"]), cost) for row, cost in zip(rows, macs, strict=True)])
    return found


def _macs(
    target: Target,
    folder: CellFolder,
    rows: Sequence[Mapping[str, Any]],
    protocol: Protocol,
    device: str,
) -> list[int]:
    """Executed MACs of each saved picture, in the batches that a run would put them in."""
    size = size_of(target.image_shape)
    found: list[int] = []
    for start in range(0, len(rows), protocol.batch):
        part = rows[start : start + protocol.batch]
        full = padded(part, protocol.batch)
        images = to_float(row_images(folder, full, "adversarial", size)).to(device)
        macs = score(target, images, [row["id"] for row in full], protocol.seed).macs
        found += macs.tolist()[: len(part)]
    return found
