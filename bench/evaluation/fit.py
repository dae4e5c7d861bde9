"""What an attack learns once a cell, on images that it is never scored on: computed by whoever
comes first, read by the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from bench.contracts.attack import Attack, Job
from bench.contracts.cell import Fit
from bench.contracts.dataset import Dataset
from bench.contracts.target import Target
from bench.contracts.threat import Threat
from bench.datasets.base import subset
from bench.errors import BudgetSpent, ContractBroken, RunFolderError
from bench.evaluation.learned import learned_digest, plain_learned
from bench.evaluation.ledger import check_paid
from bench.evaluation.meter import ForwardMeter
from bench.evaluation.outputs import check_output
from bench.evaluation.process_state import undisturbed
from bench.evaluation.sealed_view import SealedView
from bench.evaluation.view import TargetView
from bench.files.atomic import write_atomic
from bench.files.regular import read_regular
from bench.image import to_float
from bench.store.documents import write_json
from bench.store.folder import CellFolder
from bench.store.sealed import FIT, FitNote


def fit_attack(
    attack: Attack,
    target: Target,
    meter: ForwardMeter,
    dataset: Dataset,
    terms: Fit,
    threat: Threat,
    seed: int,
    folder: CellFolder,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> dict[str, Tensor]:
    """The attack's fit for this cell, on `device`: read from the cell's folder, or computed and
    written there.

    fit.safetensors holds the tensors, fit.json the images, the evaluations they cost together, and
    the tensors' digest. Workers on the same cell wait for each other.

    Raises:
        ContractBroken: `fit` overspends, edits its images, or returns something else than named,
            finite tensors.
    """
    path = folder.path / "fit.safetensors"
    with folder.exclusive("fit.lock"):
        data = _kept(folder, path)
        if data is None:
            found, spent = _compute(
                attack, target, meter, dataset, terms, threat, seed, device, progress
            )
            data = save(found)
            write_atomic(path, data)
            note = FitNote(terms.images, spent, learned_digest(data))
            write_json(folder.path / FIT, note.document())
    return {name: value.to(device) for name, value in load(data).items()}


def _kept(folder: CellFolder, path: Path) -> bytes | None:
    """What was learned before, as it was noted; None where it was not, or is damaged."""
    try:
        data = read_regular(path)
    except OSError:
        return None
    return data if learned_digest(data) == _noted(folder) else None


def _noted(folder: CellFolder) -> str:
    """The digest that was noted; "" where there is none, or a damaged note."""
    try:
        note = folder.fit()
    except RunFolderError:
        return ""
    return note.sha256 if note else ""


def _compute(
    attack: Attack,
    target: Target,
    meter: ForwardMeter,
    dataset: Dataset,
    terms: Fit,
    threat: Threat,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Tensor], int]:
    indices = subset(dataset, terms.images)
    with undisturbed():
        images = to_float(dataset.images(indices)).to(device)
    handed = images.clone()
    view = TargetView.of(target, images, terms.budget, attack.access, meter=meter)
    job = Job(
        threat,
        terms.budget,
        tuple(dataset.ids[index] for index in indices),
        seed,
        progress=progress,
    )
    name = type(attack).__name__
    met = meter.images
    try:
        with meter.withheld(f"{name}.fit"):
            found: Any = attack.fit(SealedView(view), handed, job)
    except BudgetSpent as error:
        raise ContractBroken(
            f"{name}.fit went on when {error.message}; catch BudgetSpent and return what is kept",
            hint="view.left says what each image may still spend",
        ) from error
    check_paid(meter.images - met, view.ledger, f"{name}.fit")
    if not torch.equal(handed, images):
        raise ContractBroken(
            f"{name}.fit edited its images in place",
            hint="work on a copy: images = images.clone()",
        )
    learned = plain_learned(found, f"{name}.fit")
    check_output(target(images[:1]), target, 1)
    return learned, int(view.ledger.used.sum())
