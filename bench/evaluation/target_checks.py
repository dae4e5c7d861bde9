"""Range, threat, eval mode, determinism, honest outputs: nobody else is trusted on these.

What the judge finds wrong with a target or an attack raises `ContractBroken`, and the cell becomes `invalid`; what it can
put right (an image outside its threat) it puts right and flags.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.contracts.target import EvaluationChanges, Output, Target
from bench.errors import ContractBroken
from bench.evaluation.seeds import seeded
from bench.store.target import FloatNoise

COMPANY_TOLERANCE = 1e-3
"""How far logits may move with the other images of a batch, relative to their largest magnitude."""


def freeze(target: Target) -> dict[str, Tensor]:
    """Eval mode, no gradient for any weight; returns a copy of the state to compare with later."""
    target.eval()
    target.requires_grad_(False)
    return {name: value.detach().clone() for name, value in target.state_dict().items()}


def unchanged(target: Target, state: dict[str, Tensor], who: str) -> None:
    """Raises `ContractBroken` if `who` switched the target to train mode or altered its weights."""
    training = [
        name or "the target itself" for name, module in target.named_modules() if module.training
    ]
    if training:
        raise ContractBroken(f"{who} switched {training[0]} to train mode")
    now = target.state_dict()
    gone = [name for name in state if name not in now]
    other = [
        name
        for name, before in state.items()
        if name in now and (now[name].shape, now[name].dtype) != (before.shape, before.dtype)
    ]
    same = [(name, before) for name, before in state.items() if name not in {*gone, *other}]
    if same:  # asked of the device once for all weights
        moved = torch.stack([(now[name] != before).any() for name, before in same]).tolist()
        other += [name for (name, _), is_moved in zip(same, moved, strict=True) if is_moved]
    if gone or other:
        raise ContractBroken(f"{who} changed the target's weights: {[*gone, *other][0]}")


def checked(output: Output, target: Target, count: int) -> Output:
    """The output itself, if its shapes, values and decisions are as promised.

    Raises:
        ContractBroken: naming what is not.
    """
    units = len(target.units)
    expected = {
        "logits": (count, target.classes),
        "margins": (count, units),
        "logit_margins": (count, units),
        "decisions": (count, units),
    }
    for name, shape in expected.items():
        value = getattr(output, name)
        if not isinstance(value, Tensor) or tuple(value.shape) != shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ContractBroken(f"the target's {name} have shape {found}, expected {shape}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ContractBroken(f"the target's {name} are not all finite")
    if output.decisions.dtype != torch.bool:
        raise ContractBroken(
            f"the target's decisions are {output.decisions.dtype}, expected torch.bool"
        )
    if not torch.equal(target.units.admissible(output.decisions), output.decisions):
        raise ContractBroken("the target runs a unit without the one that it comes after")
    return output


def priced(target: Target, decisions: Tensor) -> Tensor:
    """(N,) int64 MACs on the CPU, within [floor, bound].

    Raises:
        ContractBroken: `macs` is of the wrong type or shape, or out of bounds.
    """
    macs = target.macs(decisions)
    if not isinstance(macs, Tensor):
        raise ContractBroken(
            f"macs(decisions) returns {type(macs).__name__}, expected torch.int64 of ({len(decisions)},)"
        )
    if macs.dtype != torch.int64 or macs.shape != (len(decisions),):
        raise ContractBroken(
            f"macs(decisions) returns {macs.dtype} of shape {tuple(macs.shape)}, expected torch.int64 of ({len(decisions)},)"
        )
    if len(macs) and (int(macs.min()) < target.floor or int(macs.max()) > target.bound):
        least, most = int(macs.min()), int(macs.max())
        raise ContractBroken(
            f"macs(decisions) is between {least} and {most}, outside [{target.floor}, {target.bound}]"
        )
    return macs.cpu()


def probe(target: Target, images: Tensor) -> FloatNoise:
    """Hold `forward` on a batch against itself, against `forward` of each image alone, and against `execute`.

    Args:
        images: (N, C, H, W) in [0,1], real images; at most 4 are looked at one by one.

    Returns:
        The target's float noise: 4 times the largest difference seen, at least 1e-6.

    Raises:
        ContractBroken: two equal calls differ, an image's result depends on its company, or `execute` disagrees.
    """
    seeds = torch.arange(len(images))
    with torch.no_grad(), seeded(target, seeds):
        batch = checked(target(images), target, len(images))
        again = target(images)
    consistent(batch, target)
    if not torch.equal(batch.logits, again.logits) or not torch.equal(
        batch.decisions, again.decisions
    ):
        what = "with the same seeds" if target.draws > 1 else "of the same images"
        raise ContractBroken(
            f"two forward passes {what} differ",
            hint="a target is deterministic, or says draws > 1 and draws from its seeds alone",
        )
    singles: list[tuple[int, str, Output]] = []
    for i in range(min(4, len(images))):
        with torch.no_grad(), seeded(target, seeds[i : i + 1]):
            singles.append((i, "alone", checked(target(images[i : i + 1]), target, 1)))
            singles.append((i, "by execute", checked(target.execute(images[i : i + 1]), target, 1)))
    scale = float(batch.logits.abs().max().clamp(min=1))
    logits = margins = 0.0
    for i, how, single in singles:
        apart = float((single.logits[0] - batch.logits[i]).abs().max())
        same = torch.equal(single.decisions[0], batch.decisions[i])
        known = reached(target, single.decisions)[0]
        moved = (
            float(((single.margins[0] - batch.margins[i]).abs() * known).max())
            if len(target.units)
            else 0.0
        )
        if same and (apart > COMPANY_TOLERANCE * scale or moved > COMPANY_TOLERANCE):
            what = (
                "execute disagrees with forward"
                if how == "by execute"
                else "the result of an image depends on the others in its batch"
            )
            raise ContractBroken(f"{what}: logits differ by {apart:.3g}, margins by {moved:.3g}")
        if same:
            logits, margins = max(logits, apart), max(margins, moved)
    noise = FloatNoise(max(4 * logits, 1e-6), max(4 * margins, 1e-6))
    for i, how, single in singles:
        unit = disputed(target, single.decisions[0], batch.decisions[i], batch.margins[i], noise)
        if unit is not None:
            where = target.units.name[unit]
            raise ContractBroken(
                f"image {i} {how} decides {where} otherwise than in the batch, with a margin beyond float noise"
            )
    for way in ("alone", "by execute"):
        differ = [
            not torch.equal(single.decisions[0], batch.decisions[i])
            for i, how, single in singles
            if how == way
        ]
        if 2 * sum(differ) > len(differ) > 1:
            raise ContractBroken(
                f"{sum(differ)} of {len(differ)} images {way} decide otherwise than in the batch; float noise does not come so often"
            )
    _unmoved_by_gradients(target, images, batch, seeds, noise)
    if target.draws > 1:
        _really_random(target, images, batch, seeds)
    return noise


def forgetful(attacked: Target, images: Tensor, output: Output, seeds: Tensor) -> None:
    """Hold a target that was attacked against one that was not: a network keeps nothing of what it is asked.

    Args:
        images: (N, C, H, W) as scored. output: of a fresh copy, on the same images and seeds.

    Raises:
        ContractBroken: the two say or decide otherwise.
    """
    with torch.no_grad(), seeded(attacked, seeds):
        now = attacked(images)
    if not torch.equal(now.logits, output.logits) or not torch.equal(
        now.decisions, output.decisions
    ):
        raise ContractBroken(
            "the target keeps something of what it was asked: after the attack it is another one than before"
        )


def disputed(
    target: Target, decisions: Tensor, others: Tensor, margins: Tensor, noise: FloatNoise
) -> int | None:
    """The unit that two evaluations of one image decide differently, beyond float noise; None where they agree or noise explains it.

    Args:
        decisions, others, margins: (U,).

    One flipped gate changes what all later ones see, so noise has to explain the first part of the network in which they differ.
    """
    differ = decisions != others
    if not bool(differ.any()):
        return None
    first = int(differ.nonzero()[0])
    here = torch.tensor(
        [owner == target.units.owner[first] for owner in target.units.owner], device=differ.device
    )
    clear = differ & here & ~near(target, margins, noise)
    return int(clear.nonzero()[0]) if bool(clear.any()) else None


def _unmoved_by_gradients(
    target: Target, images: Tensor, batch: Output, seeds: Tensor, noise: FloatNoise
) -> None:
    """Raises `ContractBroken` where asking for gradients, in whatever way, changes what the target says or runs beyond float noise."""
    ways: tuple[EvaluationChanges, ...] = (
        {"mask_grad": "ste", "surrogate": True},
        {"mask_grad": "none", "surrogate": False},
    )
    for way in ways:
        with torch.enable_grad(), target.evaluating(**way), seeded(target, seeds):
            seen = target(images.detach().clone().requires_grad_()).detach()
        surrogates = "on" if way["surrogate"] else "off"
        how = f"masks {way['mask_grad']}, surrogates {surrogates}"
        _held_apart(target, seen, batch, noise, how)


def _held_apart(target: Target, seen: Output, batch: Output, noise: FloatNoise, how: str) -> None:
    """Hold what a target says where gradients are asked for against what it says without."""
    for i in range(len(batch.logits)):
        if (
            unit := disputed(target, seen.decisions[i], batch.decisions[i], batch.margins[i], noise)
        ) is not None:
            raise ContractBroken(
                f"where gradients are asked for ({how}) it decides {target.units.name[unit]} otherwise on image {i}"
            )
    same = (seen.decisions == batch.decisions).all(1)
    scale = float(batch.logits.abs().max().clamp(min=1))
    apart = float((seen.logits - batch.logits)[same].abs().amax()) if bool(same.any()) else 0.0
    moved = (
        float((seen.margins - batch.margins)[same].abs().amax())
        if bool(same.any()) and len(target.units)
        else 0.0
    )
    if apart > COMPANY_TOLERANCE * scale or moved > COMPANY_TOLERANCE:
        raise ContractBroken(
            f"where gradients are asked for ({how}) the target is another one: logits differ by {apart:.3g}, margins by {moved:.3g}"
        )


def _really_random(target: Target, images: Tensor, batch: Output, seeds: Tensor) -> None:
    """Raises `ContractBroken` where a target says that it draws, and other seeds change nothing."""
    with torch.no_grad(), seeded(target, seeds + len(images)):
        other = target(images)
    if torch.equal(other.logits, batch.logits) and torch.equal(other.margins, batch.margins):
        raise ContractBroken(
            f"the target says draws = {target.draws}, but other seeds give the same logits and margins"
        )


def reached(target: Target, decisions: Tensor) -> Tensor:
    """(N, U) bool: the units whose own gate was read, because what they come after ran; `execute` need not know other margins."""
    after = target.units.column("after", decisions.device)
    return (after < 0) | decisions[:, after.clamp(min=0)]


def consistent(output: Output, target: Target) -> None:
    """Hold a target's own decisions against its margins: an attack sees the gates that really decide.

    Raises:
        ContractBroken: a unit ran unasked, or was asked for, could run and did not; or the two kinds of margins differ in sign.
    """
    allowed = target.units.admissible(target.units.wanted(output.margins))
    clear = (output.margins.abs() > 1e-6) & (output.logit_margins.abs() > 1e-6)
    for wrong, what in (
        (output.decisions & ~allowed, "ran though its margin did not ask for it"),
        (allowed & ~output.decisions, "did not run though its margin asked for it"),
        (
            output.margins.sign() != output.logit_margins.sign(),
            "has margins and logit_margins of different signs; they share one zero set",
        ),
    ):
        if bool((wrong & clear).any()):
            raise ContractBroken(
                f"unit {target.units.name[int((wrong & clear).nonzero()[0][1])]} {what}"
            )


def obeyed(target: Target, image: Tensor) -> None:
    """Raises `ContractBroken` unless `forward` runs exactly the units it is told to, at both extremes."""
    with torch.no_grad():
        for decisions in target.extremes():
            forced = decisions.to(image.device)
            if not torch.equal(checked(target(image, forced), target, 1).decisions, forced):
                raise ContractBroken("forward was told which units to run and ran others")


def near(target: Target, margins: Tensor, noise: FloatNoise) -> Tensor:
    """Which margins lie within the target's own float noise of their threshold."""
    return margins.abs() <= noise.margins
