"""Checks of how a target behaves: deterministic, independent of the batch, stateless, obedient.

A run makes them on real images before the first attack, in `examine`; `gatebench plugin test` makes
the same ones, in the same order, on a copy made in the same way. What is wrong raises
`ContractBroken`, and the cell becomes `invalid`.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass
from typing import Any, SupportsIndex, cast

import torch
from torch import Tensor

from bench.contracts.target import EvaluationChanges, Output, Target
from bench.errors import ContractBroken
from bench.evaluation import cost
from bench.evaluation.outputs import (
    check_macs,
    check_marginal_macs,
    check_margins,
    check_output,
    differing_unit,
    is_same,
    own_copy,
    reached_units,
)
from bench.evaluation.seeds import seeded
from bench.store.target import FloatNoise

BATCH_TOLERANCE = 1e-3
"""How far logits may move with the other images of a batch, relative to their largest magnitude."""

ALONE = 4
"""How many images are also evaluated one by one."""


@dataclass(frozen=True)
class TargetFacts:
    """What was found out about a target before it is attacked.

    Attributes:
        noise: its float noise.
        floor: MACs of the cheapest admissible decisions, counted.
        ceiling: MACs of the dearest admissible decisions, counted.
    """

    noise: FloatNoise
    floor: int
    ceiling: int


def copy_target(target: Target) -> Target:
    """A deep copy.

    Raises:
        ContractBroken: it cannot be copied.
    """
    try:
        copied = copy.deepcopy(target)
    except Exception as error:
        raise ContractBroken(
            "the target cannot be copied, so that attacks and judge would share one: "
            f"{type(error).__name__}: {error}",
            hint="leave out locks, open files and generators; use torch.nn.utils.parametrizations "
            "for weight norm",
        ) from error
    shared = {id(module) for module in target.modules()}
    if not isinstance(copied, Target) or shared & {id(module) for module in copied.modules()}:
        raise ContractBroken(
            "a copy of the target is the target itself, or shares a module with it, so that "
            "attacks and judge would share one",
            hint="leave __deepcopy__ alone",
        )
    return copied


def examine(probed: Target, images: Tensor) -> TargetFacts:
    """Everything that a run checks about a target before the first attack.

    Args:
        probed: frozen, a copy that was evaluated on nothing yet; no score is taken from it.
        images: (N, C, H, W) in [0,1], a whole batch of real images.

    Raises:
        ContractBroken: the first promise that does not hold.
    """
    whole_number(probed.draws, "draws", 1, "over how many draws it is scored")
    first = cost.check_first_execution(probed, images[-1:])
    noise = probe(probed, images)
    cost.check_first_execution(probed, images[-1:], again=first)
    check_forced_decisions(probed, images[:1])
    floor, ceiling = cost.audit_extremes(probed, images[:1])
    for name in ("floor", "ceiling"):
        whole_number(getattr(probed, name), name, 0, "MACs")
    whole_number(probed.bound, "bound", ceiling, "MACs that no execution exceeds")
    extremes = torch.cat(probed.extremes()).to(images.device)
    check_macs(probed, extremes)
    check_marginal_macs(probed.marginal_macs(extremes), extremes)
    return TargetFacts(noise, floor, ceiling)


def whole_number(value: object, name: str, least: int, what: str) -> int:
    """A number that a target declares, as it is stored.

    Args:
        value: what it declares; any kind of whole number, such as one of NumPy's.
        name: of the attribute.
        least: that it may be.
        what: it is, for the message.

    Raises:
        ContractBroken: it is no whole number, or out of range.
    """
    try:
        found = -1 if isinstance(value, bool) else operator.index(cast(SupportsIndex, value))
    except TypeError:
        found = -1
    if not least <= found < 2**63:
        raise ContractBroken(
            f"{name} is {value!r} ({type(value).__name__}), expected a whole number of at least "
            f"{least}",
            hint=f"{name} says {what}: return an int",
        )
    return found


def probe(target: Target, images: Tensor) -> FloatNoise:
    """Compare `forward` on a batch with itself, with `forward` of single images and with `execute`.

    Args:
        target: frozen.
        images: (N, C, H, W) in [0,1], real images; at most 4 are evaluated one by one.

    Returns:
        The target's float noise: 4 times the largest difference seen, at least 1e-6.

    Raises:
        ContractBroken: two equal calls differ, an image's result depends on its batch, `execute`
            disagrees, or an input is edited in place.
    """
    seeds = torch.arange(len(images))
    batch = evaluate(target, images, seeds)
    again = evaluate(target, images, seeds)
    check_margins(batch, target)
    if not is_same(batch, again):
        what = "with the same seeds" if target.draws > 1 else "of the same images"
        raise ContractBroken(
            f"two forward passes {what} differ",
            hint="a target is deterministic, or says draws > 1 and draws from its seeds alone",
        )
    singles: list[tuple[int, str, Output]] = []
    for i in range(min(ALONE, len(images))):
        one, seed = images[i : i + 1], seeds[i : i + 1]
        singles.append((i, "alone", evaluate(target, one, seed)))
        singles.append((i, "by execute", evaluate(target, one, seed, executed=True)))
    noise = _noise_among(target, batch, singles)
    _check_decisions_alone(target, batch, singles, noise)
    _check_gradients_change_nothing(target, images, batch, seeds, noise)
    if target.draws > 1:
        _check_random(target, images, batch, seeds)
    return noise


def evaluate(target: Target, images: Tensor, seeds: Tensor, *, executed: bool = False) -> Output:
    """`forward`, or `execute` of one image, without a graph, and checked.

    Args:
        target: frozen.
        images: (N, C, H, W) in [0,1].
        seeds: (N,) int64 for random targets.
        executed: whether to call `execute`.

    Raises:
        ContractBroken: the output is not as promised, or the images were edited in place.
    """
    handed = images.clone()
    with torch.no_grad(), seeded(target, seeds):
        found: Any = target.execute(handed) if executed else target(handed)
        output = own_copy(check_output(found, target, len(images)))
    check_input_kept(handed, images, "execute" if executed else "forward")
    return output


def check_input_kept(handed: Tensor, images: Tensor, who: str) -> None:
    """Whether the images that a plugin was handed are as they were.

    Raises:
        ContractBroken: they were edited in place.
    """
    if not torch.equal(handed, images):
        raise ContractBroken(
            f"{who} edited its images in place", hint="work on a copy: images = images - mean"
        )


def _noise_among(
    target: Target, batch: Output, singles: list[tuple[int, str, Output]]
) -> FloatNoise:
    """The float noise of images evaluated alone, where they decide as in the batch."""
    scale = float(batch.logits.abs().max().clamp(min=1))
    logits = margins = 0.0
    for i, how, single in singles:
        if not torch.equal(single.decisions[0], batch.decisions[i]):
            continue
        apart = float((single.logits[0] - batch.logits[i]).abs().max())
        moved = 0.0
        if len(target.units):
            known = reached_units(target, single.decisions)[0]
            moved = float(((single.margins[0] - batch.margins[i]).abs() * known).max())
        if apart > BATCH_TOLERANCE * scale or moved > BATCH_TOLERANCE:
            what = (
                "execute disagrees with forward"
                if how == "by execute"
                else "the result of an image depends on the others in its batch"
            )
            raise ContractBroken(
                f"{what}: logits differ by {apart:.3g}, margins by {moved:.3g}",
                hint="compute each image from itself alone, and in execute as in "
                "forward; execute only leaves work out",
            )
        logits, margins = max(logits, apart), max(margins, moved)
    return FloatNoise(max(4 * logits, 1e-6), max(4 * margins, 1e-6))


def _check_decisions_alone(
    target: Target, batch: Output, singles: list[tuple[int, str, Output]], noise: FloatNoise
) -> None:
    """Whether images decide alone and by `execute` as in the batch, but for float noise."""
    differing = {"alone": 0, "by execute": 0}
    for i, how, single in singles:
        ours, theirs = single.decisions[0], batch.decisions[i]
        unit = differing_unit(target, ours, theirs, batch.margins[i], noise)
        if unit is not None:
            raise ContractBroken(
                f"image {i} {how} decides {target.units.name[unit]} otherwise than in the batch, "
                "with a margin beyond float noise",
                hint="decide each image by its own features, and in execute as in "
                "forward; batch statistics and noise drawn for the whole batch are "
                "not allowed",
            )
        differing[how] += not torch.equal(ours, theirs)
    count = len(singles) // 2
    for how, number in differing.items():
        if 2 * number > count > 1:
            raise ContractBroken(
                f"{number} of {count} images {how} decide otherwise than in the batch; expected at "
                "most half, so this is more than float noise",
                hint="decide each image by its own features, and in execute as in "
                "forward; margins near 0 are rare in float32",
            )


def _check_gradients_change_nothing(
    target: Target, images: Tensor, batch: Output, seeds: Tensor, noise: FloatNoise
) -> None:
    """Whether asking for gradients leaves values and decisions as they are."""
    ways: tuple[EvaluationChanges, ...] = (
        {"mask_grad": "ste", "surrogate": True},
        {"mask_grad": "none", "surrogate": False},
    )
    for way in ways:
        with torch.enable_grad(), target.evaluating(**way), seeded(target, seeds):
            inputs = images.detach().clone().requires_grad_()
            seen = check_output(target(inputs), target, len(images)).detach()
        surrogates = "on" if way["surrogate"] else "off"
        how = f"masks {way['mask_grad']}, surrogates {surrogates}"
        _check_close(target, seen, batch, noise, how)


def _check_close(target: Target, seen: Output, batch: Output, noise: FloatNoise, how: str) -> None:
    """Whether an output with gradients is that without, but for float noise."""
    for i in range(len(batch.logits)):
        unit = differing_unit(
            target, seen.decisions[i], batch.decisions[i], batch.margins[i], noise
        )
        if unit is not None:
            name = target.units.name[unit]
            raise ContractBroken(
                f"where gradients are asked for ({how}) it decides {name} otherwise on image {i}",
                hint="mask_grad and surrogate change gradients alone: decide by the same"
                " comparison with and without them",
            )
    same = (seen.decisions == batch.decisions).all(1)
    if not bool(same.any()):
        return
    scale = float(batch.logits.abs().max().clamp(min=1))
    apart = float((seen.logits - batch.logits)[same].abs().amax())
    moved = float((seen.margins - batch.margins)[same].abs().amax()) if len(target.units) else 0.0
    if apart > BATCH_TOLERANCE * scale or moved > BATCH_TOLERANCE:
        raise ContractBroken(
            f"where gradients are asked for ({how}) the target is another one: logits differ by "
            f"{apart:.3g}, margins by {moved:.3g}",
            hint="mask_grad and surrogate change gradients alone: keep the values of"
            " the forward pass as they are without gradients",
        )


def _check_random(target: Target, images: Tensor, batch: Output, seeds: Tensor) -> None:
    """Whether a target that says that it draws gives something else for other seeds."""
    other = evaluate(target, images, seeds + len(images))
    if torch.equal(other.logits, batch.logits) and torch.equal(other.margins, batch.margins):
        raise ContractBroken(
            f"the target says draws = {target.draws}, but other seeds give the same logits and "
            "margins",
            hint="draw from self.evaluation.seeds, or leave draws at 1",
        )


def check_stateless(attacked: Target, images: Tensor, output: Output, seeds: Tensor) -> None:
    """Whether a target answers after an attack as a copy does that was not attacked.

    Args:
        attacked: the copy that the attack evaluated.
        images: (N, C, H, W) as scored.
        output: of the other copy, on the same images and seeds.
        seeds: (N,) int64 for random targets.

    Raises:
        ContractBroken: logits or decisions differ.
    """
    if not is_same(evaluate(attacked, images, seeds), output):
        raise ContractBroken(
            "the target is stateful: its outputs changed after it was queried",
            hint="keep nothing between two calls of forward or execute",
        )


def check_forced_decisions(target: Target, image: Tensor) -> None:
    """Whether `forward` runs exactly the units that it is told to, at both extremes.

    Args:
        target: frozen.
        image: (1, C, H, W) in [0,1].

    Raises:
        ContractBroken: it runs others.
    """
    with torch.no_grad():
        for decisions in target.extremes():
            forced = decisions.to(image.device)
            output = check_output(target(image.clone(), forced), target, 1)
            if not torch.equal(output.decisions, forced):
                raise ContractBroken(
                    "forward was told which units to run and ran others",
                    hint="where decisions are given, follow them instead of the gates, and "
                    "return them",
                )
