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
from bench.contracts.threat import parse_threat
from bench.errors import BudgetSpent, ContractBroken
from bench.evaluation import cost, judge, target_checks
from bench.evaluation.build import opened_dataset
from bench.evaluation.fit import fitted
from bench.evaluation.prepare import Opened, padded_batch
from bench.evaluation.process_state import ProcessState
from bench.evaluation.record import packed, shard_rows
from bench.evaluation.score import SCORING, Scored, score
from bench.evaluation.seeds import seed_global_streams, seeded, seeds_of
from bench.evaluation.view import TargetView
from bench.files.canonical import canonical
from bench.image import to_float
from bench.plans.plan import Fit
from bench.store.folder import CellFolder, write_json
from bench.store.provenance import record

Progress = Callable[[int, int, float], None]
"""(images done, of how many, share of the present batch)"""


def run_shard(
    cell: Opened,
    folder: CellFolder,
    first: int,
    last: int,
    progress: Progress,
    reads: Mapping[str, Mapping[str, str]] = {},
) -> None:
    """Compute and write the rows of images `first` to `last`.

    Args:
        cell: made ready.
        folder: of the cell.
        first: place of the first image.
        last: place of the last one.
        progress: hears how far it is.
        reads: what making the cell's plugins reads, for the shard's record.

    Raises:
        ContractBroken: target or attack did what its contract forbids.
    """
    batch = cell.document["protocol"]["batch"]
    if not (folder.path / "target.json").is_file():
        write_json(folder.path / "target.json", cell.description)
    count = last - first + 1
    learnt = _fitted(cell, folder, lambda done, total: progress(0, count, done / max(total, 1) / 2))
    rows: list[dict[str, Any]] = []
    for start in range(first, last + 1, batch):
        done = start - first
        rows += run_batch(cell, start, partial(progress, done, count), learnt)
    progress(count, count, 0.0)
    made_by = record(cell.document, cell.device)
    if reads:
        made_by["reads"] = {kind: dict(files) for kind, files in reads.items()}
    folder.write_shard(first, last, rows, made_by)


def _fitted(
    cell: Opened, folder: CellFolder, progress: Callable[[int, int], None]
) -> dict[str, Tensor]:
    """What the attack learnt for this cell; {} for attacks that learn nothing."""
    if not cell.attack.fits:
        return {}
    protocol = cell.document["protocol"]
    terms = Fit(**protocol["fit"])
    dataset = opened_dataset(f"{protocol['dataset'].partition(':')[0]}:{terms.split}", cell.root)
    threat = parse_threat(protocol["threat"])
    found = fitted(
        cell.attack,
        cell.attacked,
        dataset,
        terms,
        threat,
        protocol["seed"],
        folder,
        cell.device,
        progress,
    )
    target_checks.unchanged(
        cell.attacked, cell.state, f"the fit of {cell.document['attack']['label']}"
    )
    return found


def run_batch(
    cell: Opened,
    first: int,
    progress: Callable[[float], None],
    learnt: Mapping[str, Tensor] | None = None,
) -> list[dict[str, Any]]:
    """The rows of one batch."""
    protocol, target = cell.document["protocol"], cell.target
    threat = parse_threat(protocol["threat"])
    clean8, places = padded_batch(cell.dataset, cell.indices, first, protocol["batch"])
    clean = to_float(clean8).to(cell.device)
    ids = tuple(cell.dataset.ids[cell.indices[place]] for place in places)

    def scored(images: Tensor) -> Scored:
        return score(target, images.to(cell.device), ids, protocol["seed"])

    before = scored(clean)
    view = TargetView.of(
        cell.attacked,
        clean,
        protocol["budget"],
        cell.attack.access,
        seeds_of(ids, protocol["seed"], "attack"),
    )
    job = Job(
        threat,
        protocol["budget"],
        ids,
        protocol["seed"],
        learnt or {},
        lambda done, total: progress(done / max(total, 1)),
    )
    handed, labels = clean.clone(), before.output.logits.argmax(1)
    name = cell.document["attack"]["label"]
    seed_global_streams(image_generator(protocol["seed"], ids[0]).initial_seed())
    state = ProcessState(torch.get_num_threads())
    try:
        adversarial = cell.attack.perturb(view, handed, labels.clone(), job)
    except BudgetSpent as error:
        raise ContractBroken(
            f"{name} went on when {error.message}; catch BudgetSpent and return what is kept"
        ) from error
    finally:
        state.restore()  # what it may have left on, such as autocast, would change its score
    if not torch.equal(handed, clean):
        raise ContractBroken(f"{name} edited the clean images in place")
    target_checks.unchanged(cell.attacked, cell.state, name)
    ruled = judge.verdict(adversarial, clean8, threat)
    unrounded = scored(ruled.projected)
    after = scored(to_float(ruled.saved))
    target_checks.forgetful(
        cell.attacked,
        to_float(ruled.saved).to(cell.device),
        after.output,
        seeds_of(ids, protocol["seed"], SCORING),
    )
    reloaded = scored(to_float(codec.through_jpeg(ruled.saved)))
    rows = shard_rows(cell, places, ids, clean8, ruled, before, unrounded, after, reloaded, view)
    kept = rows[: len(dict.fromkeys(places))]
    chosen = audited(cell)
    for i, row in enumerate(kept):
        if places[i] in chosen:
            _audit(cell, row, "clean", clean8[i : i + 1], before, i)
            _audit(cell, row, "adversarial", ruled.saved[i : i + 1], after, i)
    return kept


def audited(cell: Opened) -> set[int]:
    """The places whose images are executed and counted: as many as the protocol says, and no target can tell which."""
    key = canonical({name: cell.document[name] for name in ("target", "defense", "attack")})

    def lot(place: int) -> bytes:
        return hashlib.sha256(key + cell.dataset.ids[cell.indices[place]].encode()).digest()

    return set(sorted(range(len(cell.indices)), key=lot)[: cell.document["protocol"]["audit"]])


def _audit(
    cell: Opened, row: dict[str, Any], which: str, image: Tensor, scored: Scored, i: int
) -> None:
    """Execute one image, count it, hold it against `forward` and the price it was scored at, and let the row say what was executed.

    Of a random target that is its first draw; its MACs in the row are a mean over draws and stay.
    """
    with seeded(cell.target, seeds_of([row["id"]], cell.document["protocol"]["seed"], SCORING)):
        result = cost.audit(cell.target, to_float(image).to(cell.device))
    ran = target_checks.checked(result.output, cell.target, 1)
    seen = scored.output.rows(torch.tensor([i], device=cell.device))
    unit = target_checks.disputed(
        cell.target, ran.decisions[0], seen.decisions[0], seen.margins[0], cell.noise
    )
    if unit is not None:
        where = cell.target.units.name[unit]
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
    if cell.target.draws == 1:
        row[f"{which}_macs"] = result.macs
    row[f"{which}_decisions"] = packed(ran.decisions)[0]
    row[f"{which}_prediction"] = int(ran.logits.argmax())
