"""Contract tests of recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import torch

from bench.contracts.recipe import Moment, Stage
from bench.contracts.target import Target
from bench.plugins import registry
from bench.testing.findings import Finding, NotKept, found
from bench.testing.samples import sample_images

CLASSES = 10


def check_recipe(recipe: Any, params: Mapping[str, Any] | None = None) -> list[Finding]:
    """Check a recipe against its contract: build, one step, and the names of every stage.

    Nothing is trained for longer than a step. A stage that needs weights to start from (a teacher,
    borrowed parts) is built and named alone.

    Args:
        recipe: the class or object; its `stages` are made with `params`.
        params: settings of the stages, those that a stage has.

    Returns:
        One finding a promise and stage; `problems` lists those that are broken.

    Examples:
        >>> from bench.testing import check_recipe, problems
        >>> from targets.recipes.fbs import FBSRecipe
        >>> problems(check_recipe(FBSRecipe, {"depth": 8}))
        []
    """
    stages = getattr(recipe, "stages", None)
    if not isinstance(stages, Mapping) or not stages:
        said = f"stages is {stages!r}; expected a mapping from a name to a frozen dataclass"
        return [Finding("it has stages", said)]
    findings: list[Finding] = []
    for name, kind in stages.items():
        if not is_dataclass(kind):
            findings.append(
                Finding(f"{name}: its settings are fields", f"{kind!r} is no dataclass")
            )
            continue
        own = {key: value for key, value in (params or {}).items() if hasattr(kind, key)}
        made: list[Stage] = []

        def build(kind: Any = kind, own: Any = own, made: list[Stage] = made) -> None:
            stage: Stage = kind(**own)
            _built(stage)
            made.append(stage)

        findings.append(found(f"{name}: it builds one network from one seed", build))
        for stage in made:
            findings.append(found(f"{name}: its weights get a name", partial(_named, stage, name)))
            promise = f"{name}: a plan finds the network that it trains"
            findings.append(found(promise, partial(_found, stage)))
            step = f"{name}: a step of its loss moves the weights, and repeats itself"
            if getattr(stage, "teacher", "") or _borrows(stage):
                findings.append(Finding(step, skipped="it starts from weights of others"))
            else:
                findings.append(found(step, partial(_steps, stage)))
    return findings


def _borrows(stage: Stage) -> bool:
    ask: Callable[[], Mapping[str, str]] = getattr(stage, "borrowed", dict)
    return bool(ask())


def _network(stage: Stage) -> Target:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = stage.build(CLASSES)
    if not isinstance(built, Target):
        raise NotKept(f"build returned {type(built).__name__}, no bench.api.Target")
    return built


def _built(stage: Stage) -> None:
    first, second = _network(stage).state_dict(), _network(stage).state_dict()
    if any(not torch.equal(first[name], second[name]) for name in first):
        raise NotKept("two networks of one seed differ; draw from torch's global generator alone")
    if _network(stage).classes != CLASSES:
        raise NotKept(f"build({CLASSES}) made a network of {_network(stage).classes} classes")


def _named(stage: Stage, name: str) -> None:
    weights = stage.weights_name(name)
    if not isinstance(weights, str) or not weights or "@" in weights:
        raise NotKept(f"weights_name returned {weights!r}; a name, to which '@DATASET' is added")


def _found(stage: Stage) -> None:
    if stage.target_name not in registry.names("target"):
        raise NotKept(f"no installed target is called {stage.target_name!r} (target_name)")
    kind = registry.load("target", stage.target_name)
    wanted = _network(stage).state_dict()
    network = kind(**stage.target_params(), num_classes=CLASSES)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    if shapes != {key: tuple(value.shape) for key, value in wanted.items()}:
        raise NotKept("with target_params() the target has other weights than build() makes")


def _steps(stage: Stage) -> None:
    losses = []
    for _ in range(2):
        network = _network(stage)
        stage.begin(network)
        network.train()
        stage.begin_epoch(network, ())
        images, labels = sample_images(network.image_shape, 8), torch.arange(8) % CLASSES
        moment = Moment(0.0, torch.Generator().manual_seed(0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss, shown = stage.loss(network, images, labels, moment)
        if loss.ndim or not bool(torch.isfinite(loss)):
            raise NotKept(f"the loss is {loss}, expected one finite number")
        if not all(torch.as_tensor(value).numel() == 1 for value in shown.values()):
            raise NotKept("what a loss shows is one number a name")
        loss.backward()
        groups = stage.groups(network)
        weights = [weight for group in groups for weight in group["params"]]
        if not any(weight.grad is not None and bool(weight.grad.any()) for weight in weights):
            raise NotKept("no weight of groups() has a gradient; is something detached?")
        losses.append(loss.detach())
    if not torch.equal(*losses):
        raise NotKept("two equal steps differ; draw from moment.generator alone")
