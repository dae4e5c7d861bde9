"""One shard of one cell: clean pass, attack, judge, audit, record."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import codec, cost, judge, masking, registry, weights
from bench.api import Attack, Defense, Job, Skip, Target, image_generator
from bench.data import Dataset, open_dataset, subset
from bench.draws import seeded, seeds_of
from bench.errors import BudgetSpent, ContractBroken, GatebenchError, PlanError, PluginError
from bench.fitting import fitted
from bench.image import difference, psnr, squared_sum, ssim, to_float
from bench.keys import canonical
from bench.plan import Fit
from bench.provenance import record
from bench.scoring import SCORING, Scored, score
from bench.store import CellFolder, write_json
from bench.threat import parse_threat
from bench.view import TargetView

Progress = Callable[[int, int, float], None]
"""(images done, of how many, share of the present batch)"""


@dataclass(frozen=True)
class Opened:
    """A cell made ready in this process: what every one of its shards needs.

    Attributes:
        document: the resolved cell (protocol, target, defense, attack), as in plan.json.
        target: frozen, on `device`, for scoring alone. attacked: another copy, which the attack sees: what its queries may leave
            behind in a target changes no score. state: a copy of the weights. noise: float noise.
        attack: the attack. dataset, indices: the images, in order. root: where the data lies.
    """

    document: Mapping[str, Any]
    target: Target
    attacked: Target
    state: dict[str, Tensor]
    noise: judge.Noise
    attack: Attack
    dataset: Dataset
    indices: Sequence[int]
    device: torch.device
    description: Mapping[str, Any]
    root: str | None = None


class Unsupported(Exception):
    """The attack does not run on this target under this threat."""


def build(kind: str, document: Mapping[str, Any]) -> Any:
    """The object of a resolved component.

    Raises:
        PluginError: it cannot be imported or made.
    """
    made = registry.find(kind, f"{document['distribution']}/{document['name']}").load()
    params = {name: tuple(value) if isinstance(value, list) else value for name, value in document["params"].items()}
    try:
        return made(**params)
    except PluginError:
        raise
    except GatebenchError as error:
        raise PluginError(f"{kind} {document['name']!r}: {error.message}", hint=error.hint) from error
    except Exception as error:
        raise PluginError(f"{kind} {document['name']!r} cannot be made with {params}: {type(error).__name__}: {error}") from error


def build_target(document: Mapping[str, Any]) -> Target:
    """A target with its weights, from a manifest or from a seeded initialisation."""
    name = document["weights"]
    if name.startswith("random:"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(name[7:]))
            made: Target = build("target", document)
        return made
    made = build("target", document)
    weights.load_into(made, weights.read_state(weights.find(name)))
    return made


def build_defended(document: Mapping[str, Any], root: str | None) -> Target:
    """The target of a resolved cell with its weights, and its defence around it.

    A defence that learns does so here, from the images of the plan's fit split; the same images give the same defence.
    """
    target = build_target(document["target"])
    if not document["defense"]:
        return target
    defense: Defense = build("defense", document["defense"])
    name = document["defense"]["label"]
    if not isinstance(defense, Defense):
        raise PluginError(f"defense {name!r} is no bench.api.Defense")
    if not defense.fits:
        wrapped = defense.wrap(target)
    else:
        protocol = document["protocol"]
        dataset = opened_dataset(f"{protocol['dataset'].partition(':')[0]}:{protocol['fit']['split']}", root)
        images = to_float(dataset.images(subset(dataset, protocol["fit"]["images"])))
        state = judge.freeze(target)
        learnt = defense.fit(target, images)
        judge.unchanged(target, state, f"the fit of {name}")
        wrapped = defense.wrap(target, learnt)
    if not isinstance(wrapped, Target):
        raise PluginError(f"defense {name!r} returned {type(wrapped).__name__} from wrap, no bench.api.Target")
    return wrapped


@lru_cache(maxsize=2)
def opened_dataset(name: str, root: str | None) -> Dataset:
    """The data set, opened once a process; that of the fit beside it."""
    return open_dataset(name, Path(root) if root else None)


def open_cell(document: Mapping[str, Any], device: torch.device, root: str | None) -> Opened:
    """Make a cell ready: build target and attack, check that they fit, probe and audit the target.

    Raises:
        Unsupported: the attack says that it does not run here.
        PlanError, ContractBroken, PluginError, WeightsError, DataError.
    """
    protocol = document["protocol"]
    ready = _ready(canonical({name: document[name] for name in ("target", "defense", "protocol")}), device, root)
    attack: Attack = build("attack", document["attack"])
    if not isinstance(attack, Attack):
        raise PluginError(f"attack {document['attack']['label']!r} is no bench.api.Attack")
    target, attacked = _copied(ready.target), _copied(ready.target)
    refusal = attack.supports(attacked, parse_threat(protocol["threat"]))
    if isinstance(refusal, Skip):
        raise Unsupported(refusal.reason)
    if refusal is not None:
        raise ContractBroken(f"supports() returned {refusal!r}, neither None nor a Skip with its reason")
    return Opened(
        document, target, attacked, ready.state, ready.noise, attack, ready.dataset, ready.indices, device, ready.description, root
    )


@dataclass(frozen=True)
class _Ready:
    """What all attacks on a target share: the target, which nobody but the copying touches, and what was found out about it."""

    target: Target
    state: dict[str, Tensor]
    noise: judge.Noise
    dataset: Dataset
    indices: Sequence[int]
    description: Mapping[str, Any]


@lru_cache(maxsize=1)
def _ready(terms: bytes, device: torch.device, root: str | None) -> _Ready:
    """Build a target with its defence, probe and audit it; once for all its cells in a row.

    Args:
        terms: canonical target, defence and protocol of a resolved cell.
    """
    document = json.loads(terms)
    protocol = document["protocol"]
    dataset = opened_dataset(protocol["dataset"], root)
    indices = subset(dataset, protocol["images"])
    threat = parse_threat(protocol["threat"])
    values = int(np.prod(dataset.image_shape))
    if not threat.admits_change(values):
        raise PlanError(f"protocol.threat: {threat} admits no change of an image of {values} values")
    target = build_defended(document, root)
    if not isinstance(target, Target):
        raise PluginError(f"target {document['target']['label']!r} is no bench.api.Target")
    if tuple(target.image_shape) != tuple(dataset.image_shape):
        raise PlanError(
            f"{document['target']['label']} takes images of {tuple(target.image_shape)}, {dataset} has {tuple(dataset.image_shape)}"
        )
    target.to(device)
    state = judge.freeze(target)
    images = to_float(_batch(dataset, indices, 0, protocol["batch"])[0]).to(device)
    probed = _copied(target)
    noise = judge.probe(probed, images)
    judge.obeyed(probed, images[:1])
    floor, ceiling = cost.audit_extremes(probed, images[:1])
    judge.priced(probed, torch.cat(probed.extremes()).to(device))
    judge.unchanged(probed, state, "evaluating the target")
    bare = _bare(document, probed, device)
    description = {
        "schema": 1,
        "floor": floor,
        "ceiling": ceiling,
        "reference": bare.ceiling if bare is not None else ceiling,
        "bound": probed.bound,
        "draws": probed.draws,
        "noise": {"logits": noise.logits, "margins": noise.margins},
        "classes": list(dataset.classes),
        "dataset": {"name": str(dataset), "note": dataset.note, "credits": list(dataset.credits)},
        "control": not bool(probed.units.cost.numel()) or floor == ceiling,
        "units": _units_document(probed),
        "gradients": masking.gradients(probed, images[:16], bare),
    }
    return _Ready(target, state, noise, dataset, indices, description)


def _bare(document: Mapping[str, Any], target: Target, device: torch.device) -> Target | None:
    """The network without its defence, made anew so that no defence has a say in what it is measured against; None where there is none.

    Raises:
        ContractBroken: the defence calls another network its own.
    """
    if not document["defense"]:
        return None
    bare = build_target(document["target"]).to(device)
    judge.freeze(bare)
    if target.undefended.ceiling != bare.ceiling:
        label, said = document["defense"]["label"], target.undefended.ceiling
        raise ContractBroken(f"{label}: `undefended` has a ceiling of {said} MACs, the network that it defends one of {bare.ceiling}")
    return bare


def _copied(target: Target) -> Target:
    try:
        return copy.deepcopy(target)
    except Exception as error:
        raise ContractBroken(
            f"the target cannot be copied, so that attacks and judge would share one: {type(error).__name__}: {error}"
        ) from error


def _units_document(target: Target) -> dict[str, Any]:
    units = target.units
    return {
        "name": list(units.name),
        "kind": list(units.kind),
        "owner": list(units.owner),
        "shape": [list(shape) for shape in units.shape],
        "cost": units.cost.tolist(),
        "threshold": units.threshold.tolist(),
    }


def _batch(dataset: Dataset, indices: Sequence[int], first: int, batch: int) -> tuple[Tensor, list[int]]:
    """The uint8 images of a batch and their places; a short batch is padded with its own images, over and over."""
    places = list(range(first, min(first + batch, len(indices))))
    padded = [places[i % len(places)] for i in range(batch)]
    return dataset.images([indices[place] for place in padded]), padded


def run_shard(cell: Opened, folder: CellFolder, first: int, last: int, progress: Progress) -> None:
    """Compute and write the rows of images `first` to `last`.

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
        rows += run_batch(cell, start, lambda share, done=done: progress(done, count, share), learnt)  # type: ignore[misc]
    progress(count, count, 0.0)
    folder.write_shard(first, last, rows, record(cell.document, cell.device))


def _fitted(cell: Opened, folder: CellFolder, progress: Callable[[int, int], None]) -> dict[str, Tensor]:
    """What the attack learnt for this cell; {} for attacks that learn nothing."""
    if not cell.attack.fits:
        return {}
    protocol = cell.document["protocol"]
    terms = Fit(**protocol["fit"])
    dataset = opened_dataset(f"{protocol['dataset'].partition(':')[0]}:{terms.split}", cell.root)
    threat = parse_threat(protocol["threat"])
    found = fitted(cell.attack, cell.attacked, dataset, terms, threat, protocol["seed"], folder, cell.device, progress)
    judge.unchanged(cell.attacked, cell.state, f"the fit of {cell.document['attack']['label']}")
    return found


def run_batch(
    cell: Opened, first: int, progress: Callable[[float], None], learnt: Mapping[str, Tensor] | None = None
) -> list[dict[str, Any]]:
    """The rows of one batch."""
    protocol, target = cell.document["protocol"], cell.target
    threat = parse_threat(protocol["threat"])
    clean8, places = _batch(cell.dataset, cell.indices, first, protocol["batch"])
    clean = to_float(clean8).to(cell.device)
    ids = tuple(cell.dataset.ids[cell.indices[place]] for place in places)

    def scored(images: Tensor) -> Scored:
        return score(target, images.to(cell.device), ids, protocol["seed"])

    before = scored(clean)
    view = TargetView.of(cell.attacked, clean, protocol["budget"], cell.attack.access, seeds_of(ids, protocol["seed"], "attack"))
    job = Job(threat, protocol["budget"], ids, protocol["seed"], learnt or {}, lambda done, total: progress(done / max(total, 1)))
    handed, labels = clean.clone(), before.output.logits.argmax(1)
    name = cell.document["attack"]["label"]
    torch.manual_seed(image_generator(protocol["seed"], ids[0]).initial_seed())  # who draws from the global stream is repeatable too
    try:
        adversarial = cell.attack.perturb(view, handed, labels.clone(), job)
    except BudgetSpent as error:
        raise ContractBroken(f"{name} went on when {error.message}; catch BudgetSpent and return what is kept") from error
    if not torch.equal(handed, clean):
        raise ContractBroken(f"{name} edited the clean images in place")
    judge.unchanged(cell.attacked, cell.state, name)
    ruled = judge.verdict(adversarial, clean8, threat)
    unrounded = scored(ruled.projected)
    after = scored(to_float(ruled.saved))
    judge.forgetful(cell.attacked, to_float(ruled.saved).to(cell.device), after.output, seeds_of(ids, protocol["seed"], SCORING))
    reloaded = scored(to_float(codec.through_jpeg(ruled.saved)))
    rows = _rows(cell, places, ids, clean8, ruled, before, unrounded, after, reloaded, view)
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


def _audit(cell: Opened, row: dict[str, Any], which: str, image: Tensor, scored: Scored, i: int) -> None:
    """Execute one image, count it, hold it against `forward` and the price it was scored at, and let the row say what was executed.

    Of a random target that is its first draw; its MACs in the row are a mean over draws and stay.
    """
    with seeded(cell.target, seeds_of([row["id"]], cell.document["protocol"]["seed"], SCORING)):
        result = cost.audit(cell.target, to_float(image).to(cell.device))
    ran = judge.checked(result.output, cell.target, 1)
    seen = scored.output.rows(torch.tensor([i], device=cell.device))
    unit = judge.disputed(cell.target, ran.decisions[0], seen.decisions[0], seen.margins[0], cell.noise)
    if unit is not None:
        where = cell.target.units.name[unit]
        raise ContractBroken(f"on the {which} image {row['id']} execute decides {where} otherwise than forward does, beyond float noise")
    if torch.equal(ran.decisions, seen.decisions):
        apart = float((ran.logits - seen.logits).abs().max())
        if apart > judge.COMPANY_TOLERANCE * max(1.0, float(seen.logits.abs().max())):
            raise ContractBroken(f"on the {which} image {row['id']} the logits of execute and forward differ by {apart:.3g}")
        if int(scored.first[i]) != result.macs:
            raise ContractBroken(
                f"on the {which} image {row['id']} macs(decisions) said {int(scored.first[i])} in its batch, ptflops counts {result.macs}"
            )
    if cell.target.draws == 1:
        row[f"{which}_macs"] = result.macs
    row[f"{which}_decisions"] = _packed(ran.decisions)[0]
    row[f"{which}_prediction"] = int(ran.logits.argmax())


def _rows(
    cell: Opened,
    places: Sequence[int],
    ids: Sequence[str],
    clean8: Tensor,
    ruled: judge.Verdict,
    before: Scored,
    unrounded: Scored,
    after: Scored,
    reloaded: Scored,
    view: TargetView,
) -> list[dict[str, Any]]:
    d = difference(ruled.saved, clean8)
    total = squared_sum(d)
    values = d[0].numel()
    looked = torch.cat([before.output.margins, after.output.margins], 1)
    close = judge.near(cell.target, looked, cell.noise).sum(1)
    labels = cell.dataset.labels
    columns: dict[str, list[Any]] = {
        "id": list(ids),
        "label": [int(labels[cell.indices[place]]) for place in places],
        "clean_prediction": before.output.logits.argmax(1).tolist(),
        "adversarial_prediction": after.output.logits.argmax(1).tolist(),
        "clean_macs": before.macs.tolist(),
        "adversarial_macs": after.macs.tolist(),
        "float_macs": unrounded.macs.tolist(),
        "jpeg_macs": reloaded.macs.tolist(),
        "clean_decisions": _packed(before.output.decisions),
        "adversarial_decisions": _packed(after.output.decisions),
        "linf": d.flatten(1).abs().amax(1).tolist(),
        "squared": total.tolist(),
        "l2": (total.to(torch.float64).sqrt() / 255).tolist(),
        "psnr": psnr(total, values).tolist(),
        "ssim": ssim(ruled.saved, clean8).tolist(),
        "evaluations": view.ledger.used.tolist(),
        "forwards": view.ledger.forwards.tolist(),
        "backwards": view.ledger.backwards.tolist(),
        "held": view.ledger.held.tolist(),
        "flipped": view.ledger.flipped.tolist(),
        "near_threshold": close.tolist(),
        "overshoot": ruled.overshoot.tolist(),
        "trace": [_points(view.ledger.trace(i)) for i in range(len(ids))],
        "image": [_picture(image) for image in clean8],
        "adversarial": [_picture(image) for image in ruled.saved],
    }
    return [{name: values[i] for name, values in columns.items()} for i in range(len(ids))]


def _points(trace: Sequence[tuple[int, int, float]]) -> list[dict[str, Any]]:
    return [{"evaluations": used, "macs": macs, "squared": near} for used, macs, near in trace]


def _packed(decisions: Tensor) -> list[bytes]:
    """Each row of (N, U) bool as packed bits, first unit in the highest bit."""
    return [np.packbits(row).tobytes() for row in decisions.cpu().numpy()]


def _picture(image: Tensor) -> dict[str, Any]:
    """A (C, H, W) uint8 image in the struct that data set viewers understand."""
    return {"bytes": codec.png(image), "path": None}
