"""Stored images executed again, and compared with what a run says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.codec import size_of, through_jpeg
from bench.contracts.cell import Who
from bench.contracts.target import Output, Target
from bench.datasets.base import padded
from bench.evaluation import cost
from bench.evaluation.build import build_learned
from bench.evaluation.outputs import differing_unit, freeze, near_threshold
from bench.evaluation.score import SCORING, score
from bench.evaluation.seeds import seeded, seeds_of
from bench.image import to_float
from bench.store.pictures import row_images
from bench.store.schema import pack, unpack
from bench.store.target import DatasetWords, FloatNoise
from bench.verify.descriptions import check_descriptions
from bench.verify.findings import Examined, Findings, examined, short

COUNTED = 2
"""Images of each cell whose execution is counted by ptflops."""


def execute_anew(
    cells: Sequence[Examined],
    images: int | None,
    generator: np.random.Generator,
    data_root: str | None,
    device: str,
    found: Findings,
    tell: Callable[[str], None],
    words: tuple[DatasetWords, tuple[str, ...]] | None = None,
) -> None:
    """Evaluate a random part of each cell again, in the batch places that the run put its images
    in; targets are built once.

    Args:
        cells: to execute.
        images: of each; None is all.
        generator: which.
        found: hears what does not hold.
        data_root, device, tell: as in `bench.verify.verify.verify`.
    """
    groups: dict[Who, list[Examined]] = {}
    for cell in cells:
        groups.setdefault(cell.cell.who, []).append(cell)
    for members in groups.values():
        with examined(members[0].label, found):
            target, learnt = build_learned(members[0].cell, data_root)
            target.to(torch.device(device))
            freeze(target)
            noise = check_descriptions(target, members, words, device, found)
            for cell in members:
                tell(f"{cell.label}: executing")
                with examined(cell.label, found):
                    _learned_alike(cell, learnt, found)
                    _prices(target, cell, found)
                    for start, places in _drawn(cell, images, generator):
                        part = list(cell.rows[start : start + cell.cell.protocol.batch])
                        _again(target, cell, part, places, device, noise, found)


def _learned_alike(cell: Examined, learnt: str, found: Findings) -> None:
    """What the target's defense learned is what it learns here; older shards do not say."""
    sealed = cell.folder.sealed()
    then = sealed.environment.get("learnt", learnt) if sealed else learnt
    if then != learnt:
        said = f"{cell.label}: its defense learned {then[:16]}, here it learns {learnt[:16]}"
        (found.remarks if cell.elsewhere else found.problems).append(said)


def _drawn(
    cell: Examined, images: int | None, generator: np.random.Generator
) -> Iterator[tuple[int, list[int]]]:
    """(first image of a batch, places in it) of a random part of a cell's rows; of all where
    `images` is None."""
    batch = cell.cell.protocol.batch
    starts = list(range(0, len(cell.rows), batch))
    if images is not None:
        count = min(-(-images // batch), len(starts))
        starts = sorted(int(start) for start in generator.choice(starts, size=count, replace=False))
    for start in starts:
        places = list(range(len(cell.rows[start : start + batch])))
        if images is not None and images < len(places):
            places = sorted(int(i) for i in generator.choice(places, size=images, replace=False))
        yield start, places


def _prices(target: Target, cell: Examined, found: Findings) -> None:
    """The MACs of every row are the price of its decisions; of a random target they are a mean over
    draws."""
    if target.draws > 1:
        return
    for which in ("clean", "adversarial"):
        packed = [row[f"{which}_decisions"] for row in cell.rows]
        decisions = torch.from_numpy(unpack(packed, len(target.units)))
        macs = target.macs(decisions.to(next(iter(target.buffers()), decisions).device)).tolist()
        for row, price in zip(cell.rows, macs, strict=True):
            if row[f"{which}_macs"] != price:
                said = row[f"{which}_macs"]
                found.problems.append(
                    f"{cell.label}: image {row['id']}: {which}_macs is {said}, its decisions cost "
                    f"{price}"
                )
                break


def _again(
    target: Target,
    cell: Examined,
    part: Sequence[Mapping[str, Any]],
    places: Sequence[int],
    device: str,
    noise: FloatNoise,
    found: Findings,
) -> None:
    """Evaluate one batch as the run did, and hold some of its rows against it."""
    protocol = cell.cell.protocol
    full = padded(part, protocol.batch)
    ids = [row["id"] for row in full]
    size = size_of(target.image_shape)
    margins: list[Tensor] = []
    for which, picture in (("clean", "image"), ("adversarial", "adversarial")):
        images = to_float(row_images(cell.folder, full, picture, size)).to(device)
        seen = score(target, images, ids, protocol.seed)
        margins.append(seen.output.margins)
        for place in places:
            row, output = part[place], seen.output.rows(torch.tensor([place], device=device))
            now = {
                f"{which}_decisions": pack(output.decisions.cpu())[0],
                f"{which}_macs": int(seen.macs[place]),
                f"{which}_prediction": int(output.logits.argmax()),
            }
            found.executed += 1
            name = next((name for name, value in now.items() if row[name] != value), None)
            if name is not None:
                text = (
                    f"{cell.label}: image {row['id']}: {name} is {short(row[name])}, "
                    f"executed again {short(now[name])}"
                )
                excused = _by_noise(target, output, row, which, noise)
                (found.remarks if excused else found.problems).append(
                    text + (" (within float noise)" if excused else "")
                )
        for place in list(places)[:COUNTED]:
            _counted(target, cell, part[place], which, images[place : place + 1], noise, found)
    _check_near(target, cell, part, places, torch.cat(margins, 1), found)
    reloaded = through_jpeg(row_images(cell.folder, full, "adversarial", size))
    seen = score(target, to_float(reloaded).to(device), ids, protocol.seed)
    for place in places:
        said, again = part[place]["jpeg_macs"], int(seen.macs[place])
        if said is not None and said != again:
            close = near_threshold(seen.output.margins[place], noise).any()
            (found.remarks if bool(close) else found.problems).append(
                f"{cell.label}: image {part[place]['id']}: jpeg_macs is {said}, executed again "
                f"{again}"
            )


def _check_near(
    target: Target,
    cell: Examined,
    part: Sequence[Mapping[str, Any]],
    places: Sequence[int],
    margins: Tensor,
    found: Findings,
) -> None:
    """The number of margins within float noise, give or take those within a factor of two of it."""
    said = cell.target.noise
    least, most = (
        near_threshold(margins, FloatNoise(said.logits, said.margins * factor)).sum(1)
        for factor in (0.5, 2.0)
    )
    for place in places:
        row = part[place]
        if not int(least[place]) <= row["near_threshold"] <= int(most[place]):
            found.problems.append(
                f"{cell.label}: image {row['id']}: near_threshold is {row['near_threshold']}, "
                f"counted again {int(least[place])} to {int(most[place])}"
            )


def _by_noise(
    target: Target, output: Output, row: Mapping[str, Any], which: str, noise: FloatNoise
) -> bool:
    """Whether float noise explains a difference: a gate at its threshold, or, with the same gates,
    a tie of two classes."""
    (bits,) = unpack([row[f"{which}_decisions"]], len(target.units))
    stored = torch.from_numpy(bits).to(output.decisions.device)
    if not torch.equal(stored, output.decisions[0]):
        return differing_unit(target, output.decisions[0], stored, output.margins[0], noise) is None
    first, second = output.logits[0].topk(2).values.tolist()
    return (
        bool(row[f"{which}_prediction"] != int(output.logits.argmax()))
        and first - second <= 2 * noise.logits
    )


def _counted(
    target: Target,
    cell: Examined,
    row: Mapping[str, Any],
    which: str,
    image: Tensor,
    noise: FloatNoise,
    found: Findings,
) -> None:
    found.counted += 1
    with seeded(target, seeds_of([row["id"]], cell.cell.protocol.seed, SCORING)):
        counted = cost.audit(target, image)
    if target.draws == 1 and counted.macs != row[f"{which}_macs"]:
        text = (
            f"{cell.label}: image {row['id']}: {which}_macs is {row[f'{which}_macs']}, "
            f"ptflops counts {counted.macs}"
        )
        (
            found.remarks
            if _by_noise(target, counted.output, row, which, noise)
            else found.problems
        ).append(text)
