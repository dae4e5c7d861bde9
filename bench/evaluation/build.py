"""The objects of a resolved cell: targets with their weights, defenses, attacks, data sets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from bench import weights
from bench.contracts.cell import Cell, Component
from bench.contracts.dataset import Dataset
from bench.contracts.defense import Defense
from bench.contracts.target import Target
from bench.datasets.base import classes_digest, open_dataset, subset
from bench.errors import ContractBroken, GatebenchError, PluginError, WeightsError
from bench.evaluation.learned import digest_of, plain_learned
from bench.evaluation.outputs import check_unchanged, freeze
from bench.evaluation.process_state import undisturbed
from bench.image import to_float
from bench.plugins import registry
from bench.plugins.parameters import as_arguments


def build(kind: str, component: Component) -> Any:
    """The object of a resolved component.

    Raises:
        PluginError: it cannot be imported or made.
    """
    made = registry.find(kind, component.provider).load()
    params = as_arguments(component.params)
    try:
        return made(**params)
    except PluginError:
        raise
    except GatebenchError as error:
        raise PluginError(f"{kind} {component.name!r}: {error.message}", hint=error.hint) from error
    except Exception as error:
        raise PluginError(
            f"{kind} {component.name!r} cannot be made with {params}: {type(error).__name__}: "
            f"{error}"
        ) from error


def build_target(component: Component) -> Target:
    """A target with its weights: from a manifest, from a seeded initialization, or its own.

    Raises:
        WeightsError: weights of that name are missing, damaged, or others than the component's,
            since somebody trained or imported them again.
    """
    name = component.weights
    if not name:
        own: Target = build("target", component)
        return own
    if name.startswith("random:"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(name[7:]))
            made: Target = build("target", component)
        return made
    made = build("target", component)
    entry = weights.find(name)
    if entry.digest != component.digest:
        raise WeightsError(
            f"weights {name!r} are others than when the plan was resolved: their digest is "
            f"{entry.digest[:12]}…, the plan says {component.digest[:12]}…",
            hint="restore them, or run the plan under another name to measure those of now",
        )
    weights.load_entry(made, entry)
    return made


def trained_on(name: str, classes: Sequence[str]) -> str:
    """The data set that weights were trained on, as their manifest says.

    Args:
        name: of the weights.
        classes: of the data set that they are run on.

    Returns:
        "" where nobody said, and for random weights. Where it had other classes, or in another
        order, the name says so.
    """
    if not name or name.startswith("random:"):
        return ""
    entry = weights.find(name)
    said = entry.more.get("classes_sha256")
    others = entry.dataset and said and said != classes_digest(classes)
    return f"{entry.dataset} (other classes)" if others else entry.dataset


def build_defended(cell: Cell, root: str | None) -> Target:
    """The target of a resolved cell with its weights, and its defense around it.

    A defense that learns does so here, from the images of the plan's fit split; the same images
    give the same defense.
    """
    return build_learned(cell, root)[0]


def build_learned(cell: Cell, root: str | None) -> tuple[Target, str]:
    """As `build_defended`, with the digest of what the defense learned; "" where none learns.

    Raises:
        ContractBroken: it learned something else than named, finite tensors.
    """
    target, digest = build_target(cell.target), ""
    if cell.defense is None:
        return target, digest
    defense: Defense = build("defense", cell.defense)
    name = cell.defense.label
    if not isinstance(defense, Defense):
        raise PluginError(f"defense {name!r} is no bench.api.Defense")
    if not defense.fits:
        wrapped = defense.wrap(target)
    else:
        dataset = opened_dataset(cell.protocol.fit_dataset, root)
        with undisturbed():
            images = to_float(dataset.images(subset(dataset, cell.protocol.fit.images)))
        state = freeze(target)
        learnt = plain_learned(defense.fit(target, images), f"{name}.fit")
        check_unchanged(target, state, f"the fit of {name}")
        digest = digest_of(learnt)
        wrapped = defense.wrap(target, learnt)
    if not isinstance(wrapped, Target):
        raise PluginError(
            f"defense {name!r} returned {type(wrapped).__name__} from wrap, no bench.api.Target"
        )
    return wrapped, digest


@lru_cache(maxsize=2)
def opened_dataset(name: str, root: str | None) -> Dataset:
    """The data set, opened once a process; that of the fit beside it."""
    with undisturbed():
        return open_dataset(name, Path(root) if root else None)


def build_bare(cell: Cell, target: Target, device: torch.device) -> Target | None:
    """The network without its defense, made anew so that no defense has a say in what it is
    measured against; None where there is none.

    Raises:
        ContractBroken: the defense calls another network its own.
    """
    if cell.defense is None:
        return None
    bare = build_target(cell.target).to(device)
    freeze(bare)
    if target.undefended.ceiling != bare.ceiling:
        label, said = cell.defense.label, target.undefended.ceiling
        raise ContractBroken(
            f"{label}: `undefended` has a ceiling of {said} MACs, the network that it defends one "
            f"of {bare.ceiling}",
            hint="let `undefended` return the network that the defense was given, unchanged",
        )
    return bare
