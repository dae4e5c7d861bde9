"""Can a run folder be believed? What was sealed is held against itself, and a random part of it is executed again.

Somebody hands in a folder with images and rows. Whoever looks needs to trust nobody for this: the plan's digest and keys are made anew,
images and labels are those of the data set, distances come from the pictures, sums and digests from the shards, costs from the decisions
and from the target, which is built again; and of every cell some images, that nobody could foresee, are evaluated again, in the batch
places that the run put them in, and must give the same predictions, decisions and MACs, as integers. What an attack did to find its images
is not repeated: an image counts for what it makes the target execute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.codec import decoded
from bench.contracts.attack import Skip
from bench.contracts.dataset import Dataset
from bench.contracts.threat import parse_threat
from bench.datasets.base import subset, subset_digest
from bench.errors import GatebenchError
from bench.evaluation.build import build, build_defended, opened_dataset
from bench.files.canonical import digest
from bench.image import difference, inside, psnr, squared_sum, ssim
from bench.plans.plan import COST_MODEL, cell_of, entry_label
from bench.results.ensemble import is_combined, member_keys, strongest
from bench.runs.seal import aggregates
from bench.store.folder import RunFolder
from bench.store.provenance import sources, versions
from bench.verify.findings import Examined, Findings, examined, short
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
        data_root: where the data set lies. device: where to execute. tell: hears of each cell.
    """
    plan = run.plan()
    found = Findings(seed)
    generator = np.random.Generator(np.random.PCG64(seed))
    if (made := _digest_of(plan)) != plan["digest"]:
        found.problems.append(
            f"plan.json states the digest {str(plan['digest'])[:12]}…, its content has {made[:12]}…"
        )
    for board in plan["boards"]:
        entries = {
            entry["key"]: {**entry, "protocol": board["protocol"]} for entry in board["cells"]
        }
        pinned = _Pinned.of(board, data_root, found)
        cells: dict[str, Examined] = {}
        for key, entry in entries.items():
            tell(entry_label(entry))
            with examined(entry_label(entry), found):
                cell = _read(run, board, key, entry, pinned, found)
                if cell is not None:
                    cells[key] = cell
        for cell in cells.values():
            if is_combined(cell.entry):
                with examined(cell.label, found):
                    _combined(cell, entries, cells, found)
        skipped = [
            entry for key, entry in entries.items() if key not in cells and not entry["excluded"]
        ]
        _skipped(run, skipped, entries, data_root, found)
        chosen = [
            cell for cell in cells.values() if not only or any(part in cell.label for part in only)
        ]
        execute_anew(chosen, images, generator, data_root, device, found, tell)
    if not found.images:
        found.problems.append("there are no rows to verify")
    elif only and not found.executed:
        found.problems.append(f"no cell has {' or '.join(only)} in its label: nothing was executed")
    return found


def _digest_of(plan: Mapping[str, Any]) -> str:
    """The digest that the plan has by its content; see `bench.plans.plan.Plan.document`."""
    boards = [
        {
            "protocol": board["protocol"],
            "cells": [
                {name: entry[name] for name in ("target", "defense", "attack", "excluded")}
                for entry in board["cells"]
            ],
        }
        for board in plan["boards"]
    ]
    return digest({"schema": plan["schema"], "pages": plan["pages"], "boards": boards})


@dataclass(frozen=True)
class _Pinned:
    """The images that a board must be about.

    Attributes:
        dataset: of the board. ids: of its images, in order. places: id -> place in the data set.
    """

    dataset: Dataset
    ids: tuple[str, ...]
    places: Mapping[str, int]

    @classmethod
    def of(cls, board: Mapping[str, Any], data_root: str | None, found: Findings) -> _Pinned | None:
        """From the data set; None where it cannot be opened here, which is said."""
        protocol = board["protocol"]
        try:
            dataset = opened_dataset(protocol["dataset"], data_root)
            chosen = subset(dataset, protocol["images"])
            made = {"subset": subset_digest(dataset, chosen)}
            if board.get("fit_subset"):
                fit = opened_dataset(
                    f"{protocol['dataset'].partition(':')[0]}:{protocol['fit']['split']}", data_root
                )
                made["fit_subset"] = subset_digest(fit, subset(fit, protocol["fit"]["images"]))
        except GatebenchError as error:
            found.remarks.append(
                f"images and labels were not held against the data set: {error.message}"
            )
            return None
        found.problems += [
            f"plan.json: its {name} is not that of the data set"
            for name, value in made.items()
            if board[name] != value
        ]
        return cls(
            dataset, tuple(dataset.ids[i] for i in chosen), {dataset.ids[i]: i for i in chosen}
        )


def _read(
    run: RunFolder,
    board: Mapping[str, Any],
    key: str,
    entry: Mapping[str, Any],
    pinned: _Pinned | None,
    found: Findings,
) -> Examined | None:
    """What can be said of a cell without executing anything; None where there are no rows to go on with."""
    label, folder = entry_label(entry), run.cell(key)

    def wrong(text: str) -> None:
        found.problems.append(f"{label}: {text}")

    made = cell_of(entry).key(
        f"{board['dataset']} {board['subset']}", COST_MODEL, board.get("fit_subset", "")
    )
    if made != key:
        wrong(f"its key is {key[:12]}…, but what the plan says of it makes {made[:12]}…")
    if (
        entry["target"]["digest"]
        and entry["target"]["digest"] != find(entry["target"]["weights"]).sha256
    ):
        wrong(
            f"its weights {entry['target']['weights']} have another digest than those that are here"
        )
    if entry["excluded"]:
        found.remarks.append(f"{label} was excluded: {entry['excluded']}")
        return None
    sealed = folder.sealed()
    if sealed is None:
        wrong("is not finished")
        return None
    if (
        sealed["inputs"] != {name: value for name, value in entry.items() if name != "key"}
        or sealed["key"] != key
    ):
        wrong("cell.json was made with other inputs than plan.json says")
    if sealed["status"] != "ok":
        if sealed["status"] != "skipped":
            found.remarks.append(f"{label} is {sealed['status']}: {sealed['reason']}")
        return None
    for name in folder.altered(sealed["shards"]):
        wrong(f"{name} is missing, or not what was sealed")
    found.cells += 1
    rows = folder.table().to_pylist()
    found.images += len(rows)
    found.remarks += [
        remark for remark in _made_elsewhere(entry, sealed) if remark not in found.remarks
    ]
    ids = [row["id"] for row in rows]
    if len(ids) != entry["protocol"]["images"] or len(set(ids)) != len(ids):
        wrong(f"holds {len(set(ids))} images, the protocol says {entry['protocol']['images']}")
    if pinned is not None and tuple(ids) != pinned.ids:
        wrong("its images are not the first of the data set, in their order")
    if (sums := aggregates(folder)) != sealed["aggregates"]:
        name = next(name for name in sums if sums[name] != sealed["aggregates"].get(name))
        wrong(
            f"cell.json says {name} = {sealed['aggregates'].get(name)}, the rows add up to {sums[name]}"
        )
    for problem in _pictures(rows, entry, pinned):
        wrong(problem)
    return Examined(entry, folder, rows)


def _made_elsewhere(entry: Mapping[str, Any], sealed: Mapping[str, Any]) -> Iterator[str]:
    """Where a difference in what is executed anew may come from."""
    made = sealed["environment"]
    for kind, now in sources(entry).items():
        if (then := made.get("sources", {}).get(kind)) != now:
            yield f"{kind} {entry[kind]['label']}: made by other code than is here (sources {then} and {now})"
    for name, now in versions().items():
        if (then := made.get("versions", {}).get(name)) != now:
            yield f"made with {name} {then}, here is {now}"


def _pictures(
    rows: Sequence[Mapping[str, Any]], entry: Mapping[str, Any], pinned: _Pinned | None
) -> Iterator[str]:
    """What the pictures say against the rows, the threat and the data set; the first image of each kind."""
    protocol = entry["protocol"]
    threat = parse_threat(protocol["threat"])
    budget = protocol["budget"] * max(len(entry["attack"].get("members") or ()), 1)
    read: list[Tensor] = []
    for row in rows:
        try:
            read.append(
                torch.cat([decoded([row[name]["bytes"]]) for name in ("image", "adversarial")])
            )
        except Exception as error:
            yield f"image {row['id']}: its pictures cannot be read: {error}"
            return
    if len({tuple(pair.shape) for pair in read}) != 1:
        yield "its pictures are of several sizes"
        return
    clean, saved = torch.stack(read).unbind(1)
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
    spent = torch.tensor([row["evaluations"] <= budget for row in rows])
    checks["evaluations"] = (
        spent,
        lambda i: f"used {rows[i]['evaluations']} of {budget} forward-equivalents",
    )
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


def _skipped(
    run: RunFolder,
    skipped: Sequence[Mapping[str, Any]],
    entries: Mapping[str, Any],
    data_root: str | None,
    found: Findings,
) -> None:
    """Ask again whether attacks that were skipped do not run there; an ensemble is skipped only where all of its members are."""
    for entry in skipped:
        label = entry_label(entry)
        key = next(name for name, other in entries.items() if other is entry)
        with examined(label, found):
            sealed = run.cell(key).sealed()
            if sealed is None or sealed["status"] != "skipped":
                continue
            if is_combined(entry):
                if any(
                    (run.cell(name).sealed() or {}).get("status") == "ok"
                    for name in member_keys(entry, entries)
                ):
                    found.problems.append(f"{label}: is skipped, though members of it have numbers")
                continue
            target = build_defended(entry, data_root)
            if not isinstance(
                build("attack", entry["attack"]).supports(
                    target, parse_threat(entry["protocol"]["threat"])
                ),
                Skip,
            ):
                found.problems.append(
                    f"{label}: is skipped ({sealed['reason']}), but the attack does run there"
                )


def _combined(
    cell: Examined,
    entries: Mapping[str, Mapping[str, Any]],
    cells: Mapping[str, Examined],
    found: Findings,
) -> None:
    """An ensemble's rows must be those of its members."""
    members = [cells[key].rows for key in member_keys(cell.entry, entries) if key in cells]
    if not members or any(len(rows) != len(cell.rows) for rows in members):
        found.problems.append(f"{cell.label}: its members are not there")
        return
    for row, *candidates in zip(cell.rows, *members, strict=True):
        best = strongest(candidates)[0]
        differ = [name for name in best if best[name] != row[name]]
        if differ:
            values = f"{short(row[differ[0]])}, its strongest member has {short(best[differ[0]])}"
            found.problems.append(f"{cell.label}: image {row['id']}: {differ[0]} is {values}")
            return


def _stated_otherwise(rows: Sequence[Mapping[str, Any]], name: str, values: Tensor, i: int) -> str:
    return f"{name} is {rows[i][name]}, its pictures say {values[i]:g}"
