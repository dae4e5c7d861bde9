"""Contract tests for targets, attacks and defences, and a toy target whose MACs are computed by hand; shipped for plugin authors.

In a plugin's own test suite:

    from bench.testing import ToyTarget, check_attack, check_target

    def test_contract():
        assert not problems(check_target(MyTarget()))

`gatebench plugin test MODULE:CLASS` runs the same checks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.contracts.attack import Attack, Job, Skip
from bench.contracts.defense import Defense
from bench.contracts.target import Target
from bench.contracts.threat import Threat
from bench.errors import BudgetSpent, GatebenchError
from bench.evaluation import cost, judge, target_checks
from bench.evaluation.view import TargetView
from bench.image import difference, inside, to_float
from bench.testing.samples import random_decisions, sample_images, sample_threats
from bench.testing.toy import ToyTarget


@dataclass(frozen=True)
class Finding:
    """One promise of a contract, and why it does not hold ("" if it does)."""

    promise: str
    problem: str = ""


def problems(findings: list[Finding]) -> list[str]:
    """What does not hold, in words; empty if all is well."""
    return [f"{finding.promise}: {finding.problem}" for finding in findings if finding.problem]


def check_target(target: Target, images: Tensor | None = None) -> list[Finding]:
    """Hold a target against its contract.

    Args:
        target: with its weights; frozen and put in eval mode.
        images: (N, C, H, W) in [0,1]; uniform noise and smooth gradients of the target's own size when left out.
    """
    state = target_checks.freeze(target)
    pictures = sample_images(target.image_shape) if images is None else images
    checks: list[tuple[str, Callable[[], None]]] = [
        ("outputs have the promised shapes and are finite", lambda: _shapes(target, pictures)),
        (
            "an image's result does not depend on its company, and execute agrees with forward",
            lambda: _probed(target, pictures),
        ),
        ("units want what their margins say, strictly or not", lambda: _wanted(target, pictures)),
        ("floor and ceiling are what is executed", lambda: _extremes(target, pictures)),
        (
            "macs(decisions) is what ptflops counts, for real decisions",
            lambda: _real(target, pictures),
        ),
        (
            "macs(decisions) is what ptflops counts, for forced random decisions",
            lambda: _forced(target, pictures),
        ),
        ("forward follows forced decisions as execute does", lambda: _followed(target, pictures)),
        ("margins have gradients with respect to the images", lambda: _gradients(target, pictures)),
        ("gradients do not depend on the company", lambda: _gradient_company(target, pictures)),
        (
            "a target that says it forks does: an edit sees every backward pass, and one that edits nothing changes nothing",
            lambda: _forked(target, pictures),
        ),
        (
            "a target that says it admits does: a governor has the last word on every unit, in forward and in execute",
            lambda: _governed(target, pictures),
        ),
        ("straight-through masks change no forward value", lambda: _mask_values(target, pictures)),
        (
            "evaluating changes no weight and no mode",
            lambda: target_checks.unchanged(target, state, "evaluating"),
        ),
    ]
    return [_checked(promise, check) for promise, check in checks]


def check_attack(attack: Attack, target: Target | None = None, budget: int = 40) -> list[Finding]:
    """Hold an attack against its contract, under every threat it supports.

    Args:
        attack: to be tested. target: to test it on; `ToyTarget` when left out. budget: forward-equivalents an image.
    """
    victim = ToyTarget() if target is None else target
    state = target_checks.freeze(victim)
    clean8 = (sample_images(victim.image_shape)[:4] * 255).round().to(torch.uint8)
    found = []
    for threat in sample_threats():
        refusal = attack.supports(victim, threat)
        if refusal is not None:
            found.append(_checked(f"{threat}: a refusal says why", partial(_reasoned, refusal)))
            continue
        case = (attack, victim, clean8, threat, budget)
        found.append(
            _checked(
                f"{threat}: keeps to range, budget, threat and weights",
                partial(_attacked, state, *case),
            )
        )
        found.append(_checked(f"{threat}: repeats itself exactly", partial(_repeats, *case)))
    if all(attack.supports(victim, threat) is not None for threat in sample_threats()):
        found.append(Finding("runs under some threat", "it refuses every threat on this target"))
    return found


def check_defense(defense: Defense, target: Target | None = None) -> list[Finding]:
    """Hold a defence against its contract: what it wraps is a target like any other, and it has no say in how it is judged.

    Args:
        defense: to be tested. target: to put it around; `ToyTarget` when left out.
    """
    inner = ToyTarget() if target is None else target
    state, images = target_checks.freeze(inner), sample_images(inner.image_shape, 12)
    made: list[Target] = []

    def wraps() -> None:
        wrapped = (
            defense.wrap(inner, defense.fit(inner, images)) if defense.fits else defense.wrap(inner)
        )
        if not isinstance(wrapped, Target):
            raise _NotKept(f"wrap returned {type(wrapped).__name__}, no bench.api.Target")
        target_checks.unchanged(inner, state, "the defence")
        copy.deepcopy(wrapped)
        made.append(wrapped)

    def measured() -> None:
        if made[0].undefended.ceiling != inner.ceiling:
            raise _NotKept(
                f"`undefended` has a ceiling of {made[0].undefended.ceiling} MACs, the network one of {inner.ceiling}"
            )

    found = [
        _checked(
            "fits and wraps without touching the network, and what it makes can be copied", wraps
        )
    ]
    if made:
        found.append(_checked("`undefended` is the network that it was given", measured))
        found += check_target(made[0], images[:6])
    return found


def _checked(promise: str, check: Callable[[], None]) -> Finding:
    try:
        check()
    except GatebenchError as error:
        return Finding(promise, error.message)
    except (Exception, SystemExit) as error:
        return Finding(promise, f"{type(error).__name__}: {error}")
    return Finding(promise)


class _NotKept(GatebenchError):
    """A promise that does not hold."""


def _shapes(target: Target, images: Tensor) -> None:
    with torch.no_grad():
        target_checks.checked(target(images), target, len(images))
        target_checks.checked(target(images[:1]), target, 1)
        target_checks.checked(target.execute(images[:1]), target, 1)


def _probed(target: Target, images: Tensor) -> None:
    target_checks.probe(target, images)


def _wanted(target: Target, images: Tensor) -> None:
    with torch.no_grad():
        target_checks.consistent(target(images), target)


def _extremes(target: Target, images: Tensor) -> None:
    cost.audit_extremes(target, images[:1])


def _real(target: Target, images: Tensor) -> None:
    for i in range(min(3, len(images))):
        cost.audit(target, images[i : i + 1])


def _forced(target: Target, images: Tensor) -> None:
    for i, decisions in enumerate(random_decisions(target)):
        cost.audit(target, images[i % len(images)][None], decisions[None])


def _followed(target: Target, images: Tensor) -> None:
    decisions = random_decisions(target, len(images))
    with torch.no_grad():
        batch = target(images, decisions)
        if not torch.equal(batch.decisions, decisions):
            raise _NotKept("forward was told which units to run and ran others")
        for i in range(min(3, len(images))):
            single = target.execute(images[i : i + 1], decisions[i : i + 1])
            apart = float((single.logits[0] - batch.logits[i]).abs().max())
            if apart > target_checks.COMPANY_TOLERANCE * max(1.0, float(batch.logits.abs().max())):
                raise _NotKept(f"under the same forced decisions the logits differ by {apart:.3g}")


def _margin_gradient(target: Target, images: Tensor) -> Tensor:
    inputs = images.clone().requires_grad_()
    (grad,) = torch.autograd.grad(target(inputs).logit_margins.sum(), inputs)
    return grad


def _gradients(target: Target, images: Tensor) -> None:
    if len(target.units) == 0:
        return
    grad = _margin_gradient(target, images)
    if not bool(torch.isfinite(grad).all()):
        raise _NotKept("the gradient of the margins is not finite")
    if not bool((grad != 0).any()):
        raise _NotKept("the gradient of the margins is zero everywhere; is something detached?")


def _gradient_company(target: Target, images: Tensor) -> None:
    if len(target.units) == 0:
        return
    together = _margin_gradient(target, images)
    found = []
    for i in range(min(3, len(images))):
        alone = _margin_gradient(target, images[i : i + 1])
        found.append(
            float((together[i : i + 1] - alone).abs().max()) / max(1.0, float(alone.abs().max()))
        )
    apart = sorted(found)[
        len(found) // 2
    ]  # a ReLU within float noise of its kink turns one image, company turns them all
    if apart > 1e-4:
        raise _NotKept(
            f"the gradient of an image alone and in a batch differ by {100 * apart:.2g} % of the largest"
        )


def _forked(target: Target, images: Tensor) -> None:
    """Forks are where GradMDM edits gradients; a target that does not use them says so, and such attacks skip it."""
    if len(target.units) == 0:
        return
    seen: list[int] = []

    def noting(loss: int, unit: int, main: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(unit)
        return main, gate

    plain = _margin_gradient(target, images)
    with target.evaluating(at_fork=noting):
        edited = _margin_gradient(target, images)
    if bool(seen) != target.forks:
        raise _NotKept(
            f"forks = {target.forks}, but {len(seen)} gates read their features through fork"
        )
    apart = float((plain - edited).abs().max())
    if apart > 1e-4 * max(1.0, float(plain.abs().max())):
        raise _NotKept(f"an edit that changes nothing changes the gradient by {apart:.3g}")


def _governed(target: Target, images: Tensor) -> None:
    """Admitting is how a budget cap holds units back while the network runs; a target that does not says so, and cannot be capped."""
    if len(target.units) == 0 or not target.admits or target.floor == target.ceiling:
        return
    asked: list[int] = []

    def refusing(first: int, margins: Tensor, wanted: Tensor) -> Tensor:
        asked.append(first)
        return torch.zeros_like(wanted)

    with torch.no_grad():
        wants = bool(target(images).decisions.any())
        with target.evaluating(governor=refusing):
            outputs = [target(images), target.execute(images[:1])]
    if wants and not asked:
        raise _NotKept("it says that it admits, but no decision passes through admit")
    for output in outputs:
        if bool(output.decisions.any()):
            raise _NotKept(
                f"{target.units.name[int(output.decisions.nonzero()[0, 1])]} ran though the governor held everything back"
            )


def _mask_values(target: Target, images: Tensor) -> None:
    with target.evaluating(mask_grad="ste"):
        soft = target(images.clone().requires_grad_()).detach()
    with target.evaluating(mask_grad="none"):
        hard = target(images.clone().requires_grad_()).detach()
    apart = float((soft.logits - hard.logits).abs().max())
    if apart > target_checks.COMPANY_TOLERANCE or not torch.equal(soft.decisions, hard.decisions):
        raise _NotKept(f"logits differ by {apart:.3g} between mask_grad = 'ste' and 'none'")


def _reasoned(refusal: object) -> None:
    if not isinstance(refusal, Skip):
        raise _NotKept(f"supports() returned {refusal!r}, neither None nor a Skip with its reason")
    if not refusal.reason.strip():
        raise _NotKept("supports() refuses without a reason")


def _perturbed(
    attack: Attack, target: Target, clean8: Tensor, threat: Threat, budget: int
) -> tuple[Tensor, Tensor]:
    clean = to_float(clean8)
    handed = clean.clone()
    with torch.no_grad():
        labels = target(clean).logits.argmax(1)
    view = TargetView.of(target, clean, budget, attack.access)
    job = Job(
        threat,
        budget,
        tuple(f"image-{i}" for i in range(len(clean))),
        fitted=_fitted(attack, target, threat, budget),
    )
    try:
        adversarial = attack.perturb(view, handed, labels, job)
    except BudgetSpent as error:
        raise _NotKept("BudgetSpent was not caught: stop, and return what is kept") from error
    if not torch.equal(handed, clean):
        raise _NotKept("the clean images were edited in place")
    return adversarial, clean


def _fitted(attack: Attack, target: Target, threat: Threat, budget: int) -> dict[str, Tensor]:
    """What an attack that fits learns from eight other images."""
    if not attack.fits:
        return {}
    images = sample_images(target.image_shape, 12)[4:]
    handed = images.clone()
    view = TargetView.of(target, images, budget, attack.access)
    try:
        found = attack.fit(
            view, handed, Job(threat, budget, tuple(f"fit-{i}" for i in range(len(images))))
        )
    except BudgetSpent as error:
        raise _NotKept(
            "BudgetSpent was not caught in fit: stop, and return what is kept"
        ) from error
    if not torch.equal(handed, images):
        raise _NotKept("the fit images were edited in place")
    if not found or not all(
        isinstance(value, Tensor) and bool(torch.isfinite(value).all()) for value in found.values()
    ):
        raise _NotKept("fit returned no finite tensors, though the attack says that it fits")
    return found


def _attacked(
    state: dict[str, Tensor],
    attack: Attack,
    target: Target,
    clean8: Tensor,
    threat: Threat,
    budget: int,
) -> None:
    adversarial, _ = _perturbed(attack, target, clean8, threat, budget)
    ruled = judge.verdict(adversarial, clean8, threat)
    target_checks.unchanged(target, state, "the attack")
    if bool(ruled.overshoot.any()):
        raise _NotKept(
            f"the images leave the threat {threat} or [0,1]; project each iterate with bench.image.project"
        )
    if not bool(inside(difference(ruled.saved, clean8), threat).all()):
        raise _NotKept("a saved image is outside its threat")


def _repeats(attack: Attack, target: Target, clean8: Tensor, threat: Threat, budget: int) -> None:
    first, second = (_perturbed(attack, target, clean8, threat, budget)[0] for _ in range(2))
    if not torch.equal(first, second):
        raise _NotKept(
            "two equal calls return different images; draw from job.draw or job.generators, not the global stream"
        )


def finite_difference(
    value: Callable[[Tensor], Tensor], images: Tensor, direction: Tensor, step: float = 1e-3
) -> Tensor:
    """Central difference of a per-row value along a direction, in float64: (value(x + h d) - value(x - h d)) / 2h."""
    x, d = images.to(torch.float64), direction.to(torch.float64)
    return (value(x + step * d) - value(x - step * d)) / (2 * step)
