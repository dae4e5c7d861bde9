"""One shard of one cell: clean pass, attack, judge, audit, record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import codec
from bench.contracts.attack import Job, image_generator
from bench.errors import BudgetSpent, ContractBroken
from bench.evaluation import cost, judge, target_checks
from bench.evaluation.build import opened_dataset
from bench.evaluation.fit import fitted
from bench.evaluation.prepare import Opened, padded_batch
from bench.evaluation.process_state import ProcessState
from bench.evaluation.record import shard_rows
from bench.evaluation.score import SCORING, Scored, score
from bench.evaluation.seeds import seed_global_streams, seeded, seeds_of
from bench.evaluation.view import TargetView
from bench.files.canonical import canonical
from bench.image import to_float
from bench.store.documents import write_json
from bench.store.folder import CellFolder
from bench.store.provenance import record
from bench.store.schema import pack
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
) -> tuple[int, int]:
    """Compute and write the rows of images `first` to `last`.

    Args:
        opened: the cell, made ready.
        folder: of the cell.
        first: place of the first image.
        last: place of the last one.
        progress: hears how far it is.
        reads: what making the cell's plugins reads, for the shard's record.

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
    for start in range(first, last + 1, batch):
        done = start - first
        rows += run_batch(opened, start, partial(progress, done, count), learnt)
    progress(count, count, 0.0)
    made_by = record(opened.cell, opened.device)
    if reads:
        made_by["reads"] = {kind: dict(files) for kind, files in reads.items()}
    folder.write_shard(first, last, rows, made_by)
    return sum(row["clean_macs"] for row in rows), sum(row["adversarial_macs"] for row in rows)


def _fitted(
    opened: Opened, folder: CellFolder, progress: Callable[[int, int], None]
) -> dict[str, Tensor]:
    """What the attack learnt for this cell; {} for attacks that learn nothing."""
    if not opened.attack.fits:
        return {}
    protocol = opened.cell.protocol
    dataset = opened_dataset(protocol.fit_dataset, opened.root)
    found = fitted(
        opened.attack,
        opened.attacked,
        dataset,
        protocol.fit,
        protocol.threat,
        protocol.seed,
        folder,
        opened.device,
        progress,
    )
    target_checks.unchanged(opened.attacked, opened.state, f"the fit of {opened.cell.attack.label}")
    return found


def run_batch(
    opened: Opened,
    first: int,
    progress: Callable[[float], None],
    learnt: Mapping[str, Tensor] | None = None,
) -> list[dict[str, Any]]:
    """The rows of one batch."""
    protocol, target = opened.cell.protocol, opened.target
    threat = protocol.threat
    clean8, places = padded_batch(opened.dataset, opened.indices, first, protocol.batch)
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
    )
    job = Job(
        threat,
        protocol.budget,
        ids,
        protocol.seed,
        learnt or {},
        lambda done, total: progress(done / max(total, 1)),
    )
    handed, labels = clean.clone(), before.output.logits.argmax(1)
    name = opened.cell.attack.label
    seed_global_streams(image_generator(protocol.seed, ids[0]).initial_seed())
    state = ProcessState(torch.get_num_threads())
    try:
        adversarial = opened.attack.perturb(view, handed, labels.clone(), job)
    except BudgetSpent as error:
        raise ContractBroken(
            f"{name} went on when {error.message}; catch BudgetSpent and return what is kept"
        ) from error
    finally:
        state.restore()  # what it may have left on, such as autocast, would change its score
    if not torch.equal(handed, clean):
        raise ContractBroken(f"{name} edited the clean images in place")
    target_checks.unchanged(opened.attacked, opened.state, name)
    ruled = judge.verdict(adversarial, clean8, threat)
    unrounded = scored(ruled.projected)
    after = scored(to_float(ruled.saved))
    target_checks.forgetful(
        opened.attacked,
        to_float(ruled.saved).to(opened.device),
        after.output,
        seeds_of(ids, protocol.seed, SCORING),
    )
    reloaded = scored(to_float(codec.through_jpeg(ruled.saved)))
    rows = shard_rows(opened, places, ids, clean8, ruled, before, unrounded, after, reloaded, view)
    kept = rows[: len(dict.fromkeys(places))]
    chosen = audited(opened)
    for i, row in enumerate(kept):
        if places[i] in chosen:
            _audit(opened, row, "clean", clean8[i : i + 1], before, i)
            _audit(opened, row, "adversarial", ruled.saved[i : i + 1], after, i)
    return kept


def audited(opened: Opened) -> set[int]:
    """The places whose images are executed and counted: as many as the protocol says, and no target can tell which."""
    key = canonical(opened.cell.components())

    def lot(place: int) -> bytes:
        return hashlib.sha256(key + opened.dataset.ids[opened.indices[place]].encode()).digest()

    return set(sorted(range(len(opened.indices)), key=lot)[: opened.cell.protocol.audit])


def _audit(
    opened: Opened, row: dict[str, Any], which: str, image: Tensor, scored: Scored, i: int
) -> None:
    """Execute one image, count it, hold it against `forward` and the price it was scored at, and let the row say what was executed.

    Of a random target that is its first draw; its MACs in the row are a mean over draws and stay.
    """
    with seeded(opened.target, seeds_of([row["id"]], opened.cell.protocol.seed, SCORING)):
        result = cost.audit(opened.target, to_float(image).to(opened.device))
    ran = target_checks.checked(result.output, opened.target, 1)
    seen = scored.output.rows(torch.tensor([i], device=opened.device))
    unit = target_checks.disputed(
        opened.target, ran.decisions[0], seen.decisions[0], seen.margins[0], opened.noise
    )
    if unit is not None:
        where = opened.target.units.name[unit]
        raise ContractBroken(
            f"on the {which} image {row['id']} execute decides {where} otherwise than forward does, beyond float noise"
        )
    if torch.equal(ran.decisions, seen.decisions):
        apart = float((ran.logits - seen.logits).abs().max())
        if apart > target_checks.COMPANY_TOLERANCE * max(1.0, float(seen.logits.abs().max())):
            raise ContractBroken(
                f"on the {which} image {row['id']} the logits of execute and forward differ by {apart:.3g}"
            )
        if int(scored.first[i]) != result.macs:
            raise ContractBroken(
                f"on the {which} image {row['id']} macs(decisions) said {int(scored.first[i])} in its batch, ptflops counts {result.macs}"
            )
    if opened.target.draws == 1:
        row[f"{which}_macs"] = result.macs
    row[f"{which}_decisions"] = pack(ran.decisions.cpu())[0]
    row[f"{which}_prediction"] = int(ran.logits.argmax())
