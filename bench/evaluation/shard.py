"""One shard of one cell: clean pass, attack, judge, audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import codec
from bench.contracts.attack import Job, image_generator
from bench.datasets.base import image_digest
from bench.errors import BudgetSpent, ContractBroken, DataError, PlanError
from bench.evaluation.audit import audit_row, audited_places
from bench.evaluation.build import opened_dataset
from bench.evaluation.equivalence import check_equivalent
from bench.evaluation.fit import fit_attack
from bench.evaluation.judge import judge_images
from bench.evaluation.kept_state import changed, imported_anew, kept_state
from bench.evaluation.ledger import check_paid
from bench.evaluation.outputs import check_unchanged, is_same
from bench.evaluation.prepare import Opened, padded_batch
from bench.evaluation.process_state import ProcessState
from bench.evaluation.record import shard_rows
from bench.evaluation.score import SCORING, Scored, score
from bench.evaluation.sealed_view import SealedView
from bench.evaluation.seeds import seed_global_streams, seeds_of
from bench.evaluation.target_checks import check_stateless, evaluate
from bench.evaluation.view import TargetView
from bench.image import to_float
from bench.plugins.registry import HOME_DISTRIBUTION
from bench.store.documents import write_json
from bench.store.folder import CellFolder
from bench.store.provenance import record
from bench.store.saved import SavedImages, saved_images
from bench.store.target import TARGET

Progress = Callable[[int, int, float], None]
"""(images done, of how many, share of the present batch)"""


def run_shard(
    opened: Opened,
    folder: CellFolder,
    first: int,
    last: int,
    progress: Progress,
    reads: Mapping[str, Mapping[str, str]] = {},
    expected: Sequence[str] = (),
) -> tuple[int, int]:
    """Compute and write the rows of images `first` to `last`.

    Args:
        opened: the cell, made ready.
        folder: of the cell.
        first: place of the first image.
        last: place of the last one.
        progress: hears how far it is.
        reads: what making the cell's plugins reads, for the shard's record.
        expected: digests of the images, as they were when the run began; () where nobody compares.

    Returns:
        (clean, adversarial) MACs of its images together.

    Raises:
        ContractBroken: target or attack did what its contract forbids.
    """
    batch = opened.cell.protocol.batch
    if not folder.is_described:
        write_json(folder.path / TARGET, opened.description.document())
    count = last - first + 1
    learnt = _fitted(
        opened, folder, lambda done, total: progress(0, count, done / max(total, 1) / 2)
    )
    rows: list[dict[str, Any]] = []
    saved = begun_at(opened, folder)
    kept = kept_state(opened.cell, opened.attack) if first == 0 else None
    for start in range(first, last + 1, batch):
        done = start - first
        rows += run_batch(
            opened,
            start,
            partial(progress, done, count),
            learnt,
            saved,
            expected[done : done + batch],
        )
    progress(count, count, 0.0)
    if kept is not None:
        _check_repeatable(opened, rows, kept, learnt, saved)
    made_by = record(opened.cell, opened.device)
    if reads:
        made_by["reads"] = {kind: dict(files) for kind, files in reads.items()}
    if saved is not None:
        made_by["start"] = saved.sha256
    if opened.learnt:
        made_by["learnt"] = opened.learnt
    folder.write_shard(first, last, rows, made_by)
    return sum(row["clean_macs"] for row in rows), sum(row["adversarial_macs"] for row in rows)


def _check_repeatable(
    opened: Opened,
    rows: Sequence[Mapping[str, Any]],
    kept: Mapping[str, str],
    learnt: Mapping[str, Tensor],
    saved: SavedImages | None,
) -> None:
    """Whether a batch comes out alike whatever was attacked before it; looked at where a plugin
    that is not gatebench's own keeps something between calls.

    The first batch is repeated twice: one repetition that comes out alike may be a coincidence of
    something that alternates. A later one is attacked as if it were the first of its process: what
    the first batch of a process leaves behind may decide all others.

    Raises:
        ContractBroken: it does not, so that rows would depend on the order and on how many workers
            compute them.
    """
    moved = changed(kept, kept_state(opened.cell, opened.attack))
    if not moved:
        return
    batch, images = opened.cell.protocol.batch, len(opened.indices)
    for _ in range(2):
        again = run_batch(opened, 0, lambda share: None, learnt, saved)
        if again != list(rows[: len(again)]):
            raise _depends(opened, "the first images come out otherwise after others", moved)
    later = max((len(rows) - 1) // batch, 1) * batch
    with imported_anew(opened.cell) as attack:
        if attack is None or later >= images:
            return
        alone = run_batch(replace(opened, attack=attack), later, lambda share: None, learnt, saved)
    after = rows[later:] or run_batch(opened, later, lambda share: None, learnt, saved)
    if alone != list(after):
        raise _depends(opened, "later images come out otherwise before any others", moved)


def _depends(opened: Opened, how: str, moved: Sequence[str]) -> ContractBroken:
    """What to say of an attack whose images depend on what it attacked before."""
    return ContractBroken(
        f"{opened.cell.attack.label}: {how} were attacked; what is kept between calls has changed "
        f"({', '.join(moved[:3])})",
        hint="make what a call needs anew in it: rows must not depend on the order of images and "
        "on the number of workers",
    )


def begun_at(opened: Opened, folder: CellFolder) -> SavedImages | None:
    """The images that an attack begins at; None where those are the clean ones."""
    key = opened.cell.attack.params.get("start")
    if not opened.attack.continues or not isinstance(key, str) or not key:
        return None
    return saved_images(folder, key)


def _fitted(
    opened: Opened, folder: CellFolder, progress: Callable[[int, int], None]
) -> dict[str, Tensor]:
    """What the attack learnt for this cell; {} for attacks that learn nothing."""
    if not opened.attack.fits:
        return {}
    protocol = opened.cell.protocol
    dataset = opened_dataset(protocol.fit_dataset, opened.root)
    found = fit_attack(
        opened.attack,
        opened.attacked,
        opened.meter,
        dataset,
        protocol.fit,
        protocol.threat,
        protocol.seed,
        folder,
        opened.device,
        progress,
    )
    check_unchanged(opened.attacked, opened.state, f"the fit of {opened.cell.attack.label}")
    return found


def run_batch(
    opened: Opened,
    first: int,
    progress: Callable[[float], None],
    learnt: Mapping[str, Tensor] | None = None,
    saved: SavedImages | None = None,
    expected: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The rows of one batch.

    Args:
        opened: the cell, made ready.
        first: place of its first image.
        progress: hears the share that is done.
        learnt: what the attack learned first.
        saved: images that the attack begins at.
        expected: digests of its images; () where nobody compares.

    Raises:
        ContractBroken: target or attack did what its contract forbids.
        RunFolderError: there is no image to begin at, or one of another size.
        DataError: an image is another one than when the run began.
    """
    protocol, target = opened.cell.protocol, opened.target
    threat = protocol.threat
    clean8, places = padded_batch(opened.dataset, opened.indices, first, protocol.batch)
    _check_pictures(opened, places, clean8, expected)
    clean = to_float(clean8).to(opened.device)
    ids = tuple(opened.dataset.ids[opened.indices[place]] for place in places)

    def scored(images: Tensor) -> Scored:
        return score(target, images.to(opened.device), ids, protocol.seed)

    before = scored(clean)
    view = TargetView.of(
        opened.attacked,
        clean,
        protocol.budget,
        opened.attack.access,
        seeds_of(ids, protocol.seed, "attack"),
        protocol.precision,
        opened.meter,
    )
    job = Job(
        threat,
        protocol.budget,
        ids,
        protocol.seed,
        {each: value.clone() for each, value in (learnt or {}).items()},
        lambda done, total: progress(done / max(total, 1)),
        None if saved is None else _start(saved, ids, clean),
    )
    handed, labels = clean.clone(), before.output.logits.argmax(1)
    name = opened.cell.attack.label
    seed_global_streams(image_generator(protocol.seed, ids[0]).initial_seed())
    state = ProcessState(torch.get_num_threads())
    met = opened.meter.images
    try:
        with opened.meter.withheld(name):
            adversarial = opened.attack.perturb(SealedView(view), handed, labels.clone(), job)
    except BudgetSpent as error:
        raise ContractBroken(
            f"{name} went on when {error.message}; catch BudgetSpent and return what is kept",
            hint="view.left says what each image may still spend",
        ) from error
    finally:
        state.restore()  # what it may have left on, such as autocast, would change its score
    if not torch.equal(handed, clean):
        raise ContractBroken(
            f"{name} edited the clean images in place",
            hint="work on a copy: adversarial = images.clone()",
        )
    check_unchanged(opened.attacked, opened.state, name)
    check_paid(opened.meter.images - met, view.ledger, name)
    _check_scored_alike(opened, clean, before, ids)
    ruled = judge_images(adversarial, clean8, threat)
    unrounded = scored(ruled.projected)
    after = scored(to_float(ruled.saved))
    _check_attacked(opened, to_float(ruled.saved).to(opened.device), after, ids)
    reloaded = scored(to_float(codec.through_jpeg(ruled.saved)))
    rows = shard_rows(opened, places, ids, clean8, ruled, before, unrounded, after, reloaded, view)
    kept = rows[: len(dict.fromkeys(places))]
    chosen = audited_places(opened)
    for i, row in enumerate(kept):
        if places[i] in chosen:
            audit_row(opened, row, "clean", clean8[i : i + 1], before, i)
            audit_row(opened, row, "adversarial", ruled.saved[i : i + 1], after, i)
    return kept


def _check_pictures(
    opened: Opened, places: Sequence[int], images: Tensor, expected: Sequence[str]
) -> None:
    """Whether the images that this process reads are those that the run began with.

    Raises:
        DataError: one is not.
    """
    dataset = opened.dataset
    for place, picture, digest in zip(places, images.numpy(), expected, strict=False):
        index = opened.indices[place]
        name, label = dataset.ids[index], int(dataset.labels[index])
        if image_digest(name, label, picture) != digest:
            raise DataError(
                f"{dataset}: image {name} is another one than when the run began",
                hint="a data set gives the same ids, labels and pixels in every process",
            )


def _check_scored_alike(
    opened: Opened, clean: Tensor, before: Scored, ids: tuple[str, ...]
) -> None:
    """Whether the attack left no class, function or context behind that changes a score; looked at
    where some plugin is not gatebench's own.

    Raises:
        ContractBroken: the clean images are scored otherwise than before the attack.
    """
    cell = opened.cell
    if all(part.distribution == HOME_DISTRIBUTION for part in cell.parts.values()):
        return
    seeds = seeds_of(ids, opened.cell.protocol.seed, SCORING)
    if not is_same(evaluate(opened.target, clean, seeds), before.output):
        raise ContractBroken(
            f"the clean images are scored otherwise after {cell.attack.label} than before",
            hint="leave classes, functions and hooks of torch and of the target as they are",
        )


def _start(saved: SavedImages, ids: Sequence[str], clean: Tensor) -> Tensor:
    """The images that an attack begins at, of the clean ones' size and device."""
    found = saved.images(ids, codec.size_of(clean.shape[1:]))
    if found.shape != clean.shape:
        raise PlanError(
            f"the cell to begin at has images of {tuple(found.shape[1:])}",
            hint="name the key of a cell on the same data set",
        )
    return to_float(found).to(clean)


def _check_attacked(opened: Opened, images: Tensor, scored: Scored, ids: tuple[str, ...]) -> None:
    """Whether the network that was attacked kept nothing of it, and is the one that was scored.

    Raises:
        ContractBroken: it is stateful, or not equivalent.
    """
    seeds = seeds_of(ids, opened.cell.protocol.seed, SCORING)
    fresh = evaluate(opened.reference, images, seeds)
    check_stateless(opened.attacked, images, fresh, seeds)
    check_equivalent(opened.target, fresh, scored.output, "adversarial image")
