"""Can a run folder be believed? What was sealed is held against itself, and a random part of it is executed again.

Somebody hands in a folder with images and rows. Whoever looks needs to trust nobody for this: keys are made anew from what the plan says,
digests and sums from the shards, distances from the pictures; and of every cell some images are evaluated again, in the batch places that
the run put them in, and must give the same predictions, decisions and MACs, as integers. What an attack did to find its images is not
repeated: an image counts for what it makes the target execute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import cost, judge
from bench.api import Target
from bench.cell import build_defended, opened_dataset
from bench.codec import decoded
from bench.combine import is_combined, member_keys, strongest
from bench.draws import seeded, seeds_of
from bench.errors import GatebenchError
from bench.image import difference, inside, squared_sum, to_float
from bench.plan import cell_of, entry_label
from bench.run import COST_MODEL
from bench.scoring import SCORING, score
from bench.store import CellFolder, RunFolder, read_json
from bench.threat import parse_threat

COUNTED = 2
"""Images of each cell whose execution is counted by ptflops."""


@dataclass
class Findings:
    """What a verification looked at, and what does not hold.

    Attributes:
        problems: sentences that name cell, image, column and both values. remarks: what could not be checked, or differs for a reason.
        cells, images, executed, counted: how many cells and rows were looked at, and images executed and counted anew.
    """

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    cells: int = 0
    images: int = 0
    executed: int = 0
    counted: int = 0

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"schema": 1, "holds": self.holds, **vars(self)}


@dataclass(frozen=True)
class _Cell:
    """One cell under examination: its entry of the plan with protocol, its folder, its rows."""

    entry: Mapping[str, Any]
    folder: CellFolder
    rows: Sequence[Mapping[str, Any]]

    @property
    def label(self) -> str:
        return entry_label(self.entry)


def verify(
    run: RunFolder,
    *,
    images: int | None = 8,
    seed: int | None = None,
    only: Sequence[str] = (),
    data_root: str | None = None,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda line: None,
) -> Findings:
    """Verify a run.

    Args:
        images: executed anew in each cell, clean and adversarial; None is all of them.
        seed: which ones; by default from the plan's digest.
        only: parts of the labels of the cells to execute; the rest is read all the same.
        data_root: where the data set lies. device: where to execute. tell: hears of each cell.
    """
    plan = run.plan()
    found = Findings()
    generator = np.random.Generator(np.random.PCG64(int(plan["digest"][:12], 16) if seed is None else seed))
    for board in plan["boards"]:
        entries = {entry["key"]: {**entry, "protocol": board["protocol"]} for entry in board["cells"]}
        known = _clean_pictures(board, data_root, found)
        cells: dict[str, _Cell] = {}
        for key, entry in entries.items():
            if not entry["excluded"]:
                tell(entry_label(entry))
                cell = _read(run, board, key, entry, known, found)
                if cell is not None:
                    cells[key] = cell
        for cell in cells.values():
            if is_combined(cell.entry):
                _combined(cell, entries, cells, found)
        chosen = [cell for cell in cells.values() if not only or any(part in cell.label for part in only)]
        _execute(chosen, images, generator, data_root, device, found, tell)
    return found


def _clean_pictures(board: Mapping[str, Any], data_root: str | None, found: Findings) -> dict[str, Tensor] | None:
    """id -> (C, H, W) uint8 of the data set; None where it cannot be opened here."""
    try:
        dataset = opened_dataset(board["protocol"]["dataset"], data_root)
    except GatebenchError as error:
        found.remarks.append(f"clean images were not held against the data set: {error.message}")
        return None
    return _Pictures(dataset)


class _Pictures(dict[str, Tensor]):
    """Reads an image of a data set when it is asked for."""

    def __init__(self, dataset: Any) -> None:
        super().__init__()
        self.dataset, self.places = dataset, {name: i for i, name in enumerate(dataset.ids)}

    def __missing__(self, name: str) -> Tensor:
        if name not in self.places:
            raise KeyError(name)
        found: Tensor = self.dataset.images([self.places[name]])[0]
        return found


def _read(
    run: RunFolder, board: Mapping[str, Any], key: str, entry: Mapping[str, Any], known: dict[str, Tensor] | None, found: Findings
) -> _Cell | None:
    """What can be said of a cell without executing anything; None where there are no rows to go on with."""
    label, folder = entry_label(entry), run.cell(key)

    def wrong(text: str) -> None:
        found.problems.append(f"{label}: {text}")

    made = cell_of(entry).key(f"{board['dataset']} {board['subset']}", COST_MODEL, board.get("fit_subset", ""))
    if made != key:
        wrong(f"its key is {key[:12]}…, but what the plan says of it makes {made[:12]}…")
    sealed = folder.sealed()
    if sealed is None:
        wrong("is not finished")
        return None
    if sealed["inputs"] != {name: value for name, value in entry.items() if name != "key"}:
        wrong("cell.json was made with other inputs than plan.json says")
    if sealed["status"] != "ok":
        if sealed["status"] != "skipped":
            found.remarks.append(f"{label} is {sealed['status']}: {sealed['reason']}")
        return None
    for name in folder.altered(sealed["shards"]):
        wrong(f"{name} is missing, or not what was sealed")
    found.cells += 1
    try:
        rows = folder.table().to_pylist()
    except Exception as error:
        wrong(f"its shards cannot be read: {error}")
        return None
    found.images += len(rows)
    ids = [row["id"] for row in rows]
    if len(ids) != entry["protocol"]["images"] or len(set(ids)) != len(ids):
        wrong(f"holds {len(set(ids))} images, the protocol says {entry['protocol']['images']}")
    for name, stated in sealed["aggregates"].items():
        now = len(rows) if name == "images" else sum(int(row[name] or 0) for row in rows)
        if now != stated:
            wrong(f"cell.json says {name} = {stated}, the rows add up to {now}")
    for problem in _pictures(rows, entry, known):
        wrong(problem)
    return _Cell(entry, folder, rows)


def _pictures(rows: Sequence[Mapping[str, Any]], entry: Mapping[str, Any], known: dict[str, Tensor] | None) -> Iterator[str]:
    """What the pictures say against the rows, the threat and the data set; the first of each kind."""
    threat = parse_threat(entry["protocol"]["threat"])
    told: set[str] = set()
    for row in rows:
        clean, saved = decoded([row["image"]["bytes"]]), decoded([row["adversarial"]["bytes"]])
        d = difference(saved, clean)
        checks = {
            "threat": (bool(inside(d, threat).all()), f"image {row['id']} lies outside {threat}"),
            "linf": (row["linf"] == int(d.abs().max()), f"image {row['id']}: linf is {row['linf']}, its pictures say {int(d.abs().max())}"),
            "squared": (
                row["squared"] == int(squared_sum(d)),
                f"image {row['id']}: squared is {row['squared']}, its pictures say {int(squared_sum(d))}",
            ),
        }
        if known is not None:
            try:
                checks["data"] = (torch.equal(known[row["id"]], clean[0]), f"image {row['id']}: its clean picture is not the data set's")
            except KeyError:
                checks["data"] = (False, f"the data set has no image {row['id']}")
        for name, (holds, text) in checks.items():
            if not holds and name not in told:
                told.add(name)
                yield text


def _combined(cell: _Cell, entries: Mapping[str, Mapping[str, Any]], cells: Mapping[str, _Cell], found: Findings) -> None:
    """An ensemble's rows must be those of its members."""
    members = [cells[key].rows for key in member_keys(cell.entry, entries) if key in cells]
    if not members or any(len(rows) != len(cell.rows) for rows in members):
        found.problems.append(f"{cell.label}: its members are not there")
        return
    for row, *candidates in zip(cell.rows, *members, strict=True):
        best = strongest(candidates)[0]
        differ = [name for name in best if best[name] != row[name]]
        if differ:
            values = f"{_short(row[differ[0]])}, its strongest member has {_short(best[differ[0]])}"
            found.problems.append(f"{cell.label}: image {row['id']}: {differ[0]} is {values}")
            return


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _execute(
    cells: Sequence[_Cell],
    images: int | None,
    generator: np.random.Generator,
    data_root: str | None,
    device: str,
    found: Findings,
    tell: Callable[[str], None],
) -> None:
    """Evaluate a random part of each cell again; targets are built once."""
    groups: dict[tuple[str, str], list[_Cell]] = {}
    for cell in cells:
        defense = cell.entry["defense"]
        groups.setdefault((cell.entry["target"]["label"], defense["label"] if defense else ""), []).append(cell)
    for members in groups.values():
        try:
            target = build_defended(members[0].entry, data_root)
        except GatebenchError as error:
            found.problems.append(f"{members[0].label}: its target cannot be made: {error.message}")
            continue
        target.to(torch.device(device))
        judge.freeze(target)
        for cell in members:
            tell(f"{cell.label}: executing")
            batch = cell.entry["protocol"]["batch"]
            starts = list(range(0, len(cell.rows), batch))
            if images is not None:
                count = min(-(-images // batch), len(starts))
                starts = sorted(int(start) for start in generator.choice(starts, size=count, replace=False))
            for start in starts:
                part = list(cell.rows[start : start + batch])
                places = list(range(len(part)))
                if images is not None and images < len(places):
                    places = sorted(int(i) for i in generator.choice(places, size=images, replace=False))
                _again(target, cell, part, places, device, found)


def _again(target: Target, cell: _Cell, part: Sequence[Mapping[str, Any]], places: Sequence[int], device: str, found: Findings) -> None:
    """Evaluate one batch as the run did, and hold some of its rows against it."""
    protocol = cell.entry["protocol"]
    padded = [part[i % len(part)] for i in range(protocol["batch"])]
    ids = [row["id"] for row in padded]
    noise = _noise(cell.folder)
    for which, picture in (("clean", "image"), ("adversarial", "adversarial")):
        images = to_float(decoded([row[picture]["bytes"] for row in padded])).to(device)
        seen = score(target, images, ids, protocol["seed"])
        packed = [np.packbits(row).tobytes() for row in seen.output.decisions.cpu().numpy()]
        predictions = seen.output.logits.argmax(1).tolist()
        for place in places:
            row = part[place]
            values = {
                f"{which}_macs": int(seen.macs[place]),
                f"{which}_prediction": int(predictions[place]),
                f"{which}_decisions": packed[place],
            }
            found.executed += 1
            for name, now in values.items():
                if row[name] != now:
                    near = bool((seen.output.margins[place].abs() <= noise).any())
                    text = f"{cell.label}: image {row['id']}: {name} is {_short(row[name])}, executed anew {_short(now)}"
                    (found.remarks if near else found.problems).append(text + (" (a margin within float noise)" if near else ""))
                    break
        for place in list(places)[:COUNTED]:
            _counted(target, cell, part[place], which, images[place : place + 1], noise, found)


def _counted(target: Target, cell: _Cell, row: Mapping[str, Any], which: str, image: Tensor, noise: float, found: Findings) -> None:
    found.counted += 1
    try:
        with seeded(target, seeds_of([row["id"]], cell.entry["protocol"]["seed"], SCORING)):
            counted = cost.audit(target, image)
    except GatebenchError as error:
        found.problems.append(f"{cell.label}: image {row['id']}, {which}: {error.message}")
        return
    if target.draws == 1 and counted.macs != row[f"{which}_macs"]:
        near = bool((counted.output.margins[0].abs() <= noise).any())
        text = f"{cell.label}: image {row['id']}: {which}_macs is {row[f'{which}_macs']}, ptflops counts {counted.macs}"
        (found.remarks if near else found.problems).append(text)


def _noise(folder: CellFolder) -> float:
    return float(read_json(folder.path / "target.json")["noise"]["margins"])
