"""Whether a target that is made anew is the one that a run evaluated.

Code, weights, data and versions may be others than when the run was made, and a plugin may remember
other targets. The clean results of the run tell, and what its defense learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from bench.codec import size_of
from bench.contracts.target import Target
from bench.datasets.base import padded
from bench.errors import RunFolderError
from bench.evaluation.build import build_learned
from bench.evaluation.outputs import freeze, near_threshold
from bench.evaluation.prepare import check_fit_images
from bench.evaluation.score import score
from bench.image import to_float
from bench.results.clean import COLUMNS, CleanResult, differing_image
from bench.results.reading import FinishedCell
from bench.store.pictures import row_images
from bench.store.provenance import environment
from bench.store.schema import pack, packed_bits
from bench.store.sealed import learned_otherwise

HINT = (
    "the target, its weights or the data are others than when the run was made; 'gatebench verify' "
    "says more, and a run under another name measures what is there now"
)


def check_rows(finished: FinishedCell, rows: Sequence[Mapping[str, Any]]) -> None:
    """Hold rows that were computed anew against what a run says of the same clean images.

    Args:
        finished: the cell of the run.
        rows: of its first images.

    Raises:
        RunFolderError: an image, its label or what the target makes of it is another.
    """
    target = finished.folder.target()
    columns = (*COLUMNS, "label", "image")
    before = finished.folder.table(columns).slice(0, len(rows)).to_pylist()
    for then, now in zip(before, rows, strict=True):
        same = (then["id"], then["label"]) == (now["id"], now["label"])
        if not (same and _is_same_picture(finished, then, now)):
            raise RunFolderError(
                f"{finished.cell.label}: image {then['id']} of the run is another one here",
                hint=HINT,
            )
    there, here = (
        CleanResult.of(
            pa.Table.from_pylist([{name: row[name] for name in COLUMNS} for row in part]), target
        )
        for part in (before, rows)
    )
    _check_same(finished, there, here)


def build_same(finished: FinishedCell, root: str | None, device: str) -> Target:
    """The target of a cell with its defense, made anew, frozen, on `device`.

    Args:
        finished: the cell of the run.
        root: where data sets lie.
        device: where it will be evaluated.

    Raises:
        DataError: the images that its defense learns from are others than the run's.
        RunFolderError: its defense learns otherwise than in the run.
    """
    defense = finished.cell.defense
    if defense is not None and defense.fits and finished.fit_subset:
        check_fit_images(finished.cell, root, finished.fit_subset)
    target, learnt = build_learned(finished.cell, root)
    check_learned(finished, learnt, device)
    target.to(torch.device(device))
    freeze(target)
    return target


def check_learned(finished: FinishedCell, learnt: str, device: str) -> None:
    """Hold what a defense learned here against what it learned in a run; clean images need not
    tell.

    Args:
        finished: a cell of the run.
        learnt: digest of what its defense learned here.
        device: where it will be evaluated.

    Raises:
        RunFolderError: they differ, though versions and devices are the same.
    """
    sealed = finished.folder.sealed()
    here = environment(torch.device(device))
    here["learnt"] = learnt
    if learnt and sealed and learned_otherwise(sealed.environment, here):
        raise RunFolderError(
            f"{finished.cell.label}: its defense learns otherwise here than in the run", hint=HINT
        )


def check_target(finished: FinishedCell, target: Target, count: int, device: str) -> None:
    """Evaluate clean images of a run again, in the batches that the run put them in.

    Args:
        finished: a cell of the run on this target.
        target: made anew, frozen, on `device`.
        count: of its first images, at most.
        device: where it is.

    Raises:
        RunFolderError: one gives another result than in the run.
    """
    folder, protocol, described = finished.folder, finished.cell.protocol, finished.folder.target()
    table = folder.table([*COLUMNS, "image"]).slice(0, count)
    rows, size = table.to_pylist(), size_of(target.image_shape)
    macs: list[int] = []
    predictions: list[int] = []
    near: list[int] = []
    packed: list[bytes] = []
    for first in range(0, len(rows), protocol.batch):
        part = rows[first : first + protocol.batch]
        full = padded(part, protocol.batch)
        images = to_float(row_images(folder, full, "image", size)).to(device)
        with torch.no_grad():
            seen = score(target, images, [row["id"] for row in full], protocol.seed)
        macs += seen.macs.tolist()[: len(part)]
        predictions += seen.output.logits.argmax(1).tolist()[: len(part)]
        near += near_threshold(seen.output.margins, described.noise).sum(1).tolist()[: len(part)]
        packed += pack(seen.output.decisions.cpu())[: len(part)]
    there = CleanResult.of(table, described)
    here = CleanResult(
        there.ids,
        np.array(macs, np.int64),
        np.array(predictions, np.int64),
        packed_bits(packed, len(target.units)),
        np.array(near, np.int64),
        target.units.owner,
        target.draws,
    )
    _check_same(finished, there, here)


def _is_same_picture(
    finished: FinishedCell, then: Mapping[str, Any], now: Mapping[str, Any]
) -> bool:
    if then["image"]["bytes"] == now["image"]["bytes"]:
        return True
    size = finished.folder.target().picture_size
    if size is None:
        return False
    here, there = (row_images(finished.folder, [row], "image", size) for row in (then, now))
    return torch.equal(here, there)


def _check_same(finished: FinishedCell, there: CleanResult, here: CleanResult) -> None:
    if image := differing_image([there, here]):
        raise RunFolderError(
            f"{finished.cell.label}: the clean image {image} gives another result here than in the "
            "run",
            hint=HINT,
        )
