"""Contract tests of targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.contracts.target import Output, Target
from bench.errors import ContractBroken
from bench.evaluation import cost
from bench.evaluation.equivalence import equivalent_of
from bench.evaluation.outputs import check_margins, check_output, check_unchanged, freeze
from bench.evaluation.target_checks import (
    BATCH_TOLERANCE,
    check_stateless,
    copy_target,
    evaluate,
    examine,
)
from bench.evaluation.view import TargetView
from bench.testing.findings import Finding, NotApplying, NotKept, found
from bench.testing.samples import random_decisions, sample_images

OPENED = "a run can open it: copies, outputs, single images, execute, forced decisions, MACs"
"""The promise that a run checks before the first attack and after it; the others look closer."""

_QUERIES = 3
"""Gradients that are taken before the target is compared with one that was never asked."""


def check_target(target: Target, images: Tensor | None = None) -> list[Finding]:
    """Check a target against its contract.

    The first finding is what a run checks: the same function, on a copy made in the same way.

    Args:
        target: with its weights; frozen and put in eval mode.
        images: (N, C, H, W) in [0,1]; uniform noise and smooth gradients of the target's own size
            when left out.

    Examples:
        >>> from bench.testing import ToyTarget, check_target, problems
        >>> problems(check_target(ToyTarget()))
        []
    """
    pictures = sample_images(target.image_shape) if images is None else images
    try:
        state = freeze(target)
        probed = copy_target(target)
    except ContractBroken as error:
        return [Finding(OPENED, error.message, hint=error.hint or "")]

    def opened() -> None:
        copied = copy_target(target)
        examine(copied, pictures)
        check_unchanged(copied, state, "evaluating the target")
        _queried(equivalent_of(target, pictures), pictures)

    checks: list[tuple[str, Callable[[], object]]] = [
        (OPENED, opened),
        ("units want what their margins say, strictly or not", lambda: _wanted(probed, pictures)),
        (
            "macs(decisions) is what ptflops counts, for real decisions",
            lambda: _real(probed, pictures),
        ),
        (
            "macs(decisions) is what ptflops counts, for forced random decisions",
            lambda: _forced(probed, pictures),
        ),
        ("forward follows forced decisions as execute does", lambda: _followed(probed, pictures)),
        ("margins have gradients with respect to the images", lambda: _gradients(probed, pictures)),
        (
            "gradients are independent of the other images in the batch",
            lambda: _gradient_company(probed, pictures),
        ),
        (
            "a target that says it forks does: an edit sees every backward pass, and one that "
            "edits nothing changes nothing",
            lambda: _forked(probed, pictures),
        ),
        (
            "a target that says it admits does: a governor has the last word on every unit, in "
            "forward and in execute",
            lambda: _governed(probed, pictures),
        ),
        ("straight-through masks change no forward value", lambda: _mask_values(probed, pictures)),
        (
            "evaluating changes no weight and no mode",
            lambda: check_unchanged(probed, state, "evaluating"),
        ),
    ]
    return [found(promise, check) for promise, check in checks]


def _queried(attacked: Target, images: Tensor) -> None:
    """Take gradients of what attacks are given, as they do, and compare it with a copy."""
    seeds = torch.arange(len(images))
    fresh = evaluate(copy_target(attacked), images, seeds)
    view = TargetView.of(attacked, images, 3 * _QUERIES)
    rows, moved = torch.arange(len(images)), images
    for _ in range(_QUERIES if len(attacked.units) else 0):
        _, (gradient,) = view.gradients(
            lambda output: [output.logit_margins.float().sum(1)], moved, rows
        )
        moved = (moved + gradient.sign() / 255).clamp(0, 1)
    check_stateless(attacked, images, fresh, seeds)


def _wanted(target: Target, images: Tensor) -> None:
    with torch.no_grad():
        check_margins(check_output(target(images), target, len(images)), target)


def _real(target: Target, images: Tensor) -> None:
    for i in range(min(3, len(images))):
        cost.audit(target, images[i : i + 1])


def _forced(target: Target, images: Tensor) -> None:
    for i, decisions in enumerate(random_decisions(target)):
        cost.audit(target, images[i % len(images)][None], decisions[None])


def _followed(target: Target, images: Tensor) -> None:
    decisions = random_decisions(target, len(images))
    with torch.no_grad():
        batch = _output(target, images, decisions)
        if not torch.equal(batch.decisions, decisions):
            raise NotKept("forward was told which units to run and ran others")
        for i in range(min(3, len(images))):
            single = target.execute(images[i : i + 1], decisions[i : i + 1])
            apart = float((single.logits[0] - batch.logits[i]).abs().max())
            if apart > BATCH_TOLERANCE * max(1.0, float(batch.logits.abs().max())):
                raise NotKept(f"under the same forced decisions the logits differ by {apart:.3g}")


def _margin_gradient(target: Target, images: Tensor) -> Tensor:
    inputs = images.clone().requires_grad_()
    output = _output(target, inputs)
    for name in ("margins", "logit_margins"):
        if not getattr(output, name).requires_grad:
            raise NotKept(
                f"no gradient leads from {name} to the images: it is cut by detach, no_grad, item, "
                "NumPy, or a comparison"
            )
    (grad,) = torch.autograd.grad(output.logit_margins.sum(), inputs, allow_unused=True)
    if grad is None:
        raise NotKept("logit_margins have a gradient, but none with respect to the images")
    return grad


def _output(target: Target, images: Tensor, decisions: Tensor | None = None) -> Output:
    """What `forward` returns, if it is an `Output` of tensors."""
    found: object = target(images, decisions)
    if not isinstance(found, Output):
        raise NotKept(
            f"forward returned {type(found).__name__}, expected a bench.api.Output: return "
            "Output(logits, margins, logit_margins, decisions)"
        )
    for name in ("logits", "margins", "logit_margins", "decisions"):
        value: object = getattr(found, name)
        if not isinstance(value, Tensor):
            raise NotKept(f"Output.{name} is {type(value).__name__}, expected a torch.Tensor")
    return found


def _check_has_units(target: Target) -> None:
    if len(target.units) == 0:
        raise NotApplying("it has no units")


def _gradients(target: Target, images: Tensor) -> None:
    _check_has_units(target)
    grad = _margin_gradient(target, images)
    if not bool(torch.isfinite(grad).all()):
        raise NotKept("the gradient of the margins is not finite")
    if not bool((grad != 0).any()):
        raise NotKept("the gradient of the margins is zero everywhere; is something detached?")


def _gradient_company(target: Target, images: Tensor) -> None:
    _check_has_units(target)
    together = _margin_gradient(target, images)
    found = []
    for i in range(min(3, len(images))):
        alone = _margin_gradient(target, images[i : i + 1])
        found.append(
            float((together[i : i + 1] - alone).abs().max()) / max(1.0, float(alone.abs().max()))
        )
    # The median: a ReLU kink affects one image; batch dependence affects all.
    apart = sorted(found)[len(found) // 2]
    if apart > 1e-4:
        raise NotKept(
            f"the gradient of an image alone and in a batch differ by {100 * apart:.2g} % of the "
            "largest"
        )


def _forked(target: Target, images: Tensor) -> None:
    """Forks are where GradMDM edits gradients; a target that does not use them says so, and such
    attacks skip it."""
    _check_has_units(target)
    seen: list[int] = []

    def noting(loss: int, unit: int, main: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(unit)
        return main, gate

    if not target.forks:
        with target.evaluating(at_fork=noting):
            _margin_gradient(target, images)
        if not seen:
            raise NotApplying("it does not say that it forks (forks = True)")
    plain = _margin_gradient(target, images)
    with target.evaluating(at_fork=noting):
        edited = _margin_gradient(target, images)
    if bool(seen) != target.forks:
        raise NotKept(
            f"forks = {target.forks}, but {len(seen)} gates read their features through fork"
        )
    apart = float((plain - edited).abs().max())
    if apart > 1e-4 * max(1.0, float(plain.abs().max())):
        raise NotKept(f"an edit that changes nothing changes the gradient by {apart:.3g}")


def _governed(target: Target, images: Tensor) -> None:
    """Admitting is how a budget cap holds units back while the network runs; a target that does not
    says so, and cannot be capped."""
    _check_has_units(target)
    if not target.admits:
        raise NotApplying("it does not say that it admits (admits = True), so it cannot be capped")
    if target.floor == target.ceiling:
        raise NotApplying("floor and ceiling are one, so there is nothing to hold back")
    asked: list[int] = []

    def refusing(first: int, margins: Tensor, wanted: Tensor) -> Tensor:
        asked.append(first)
        return torch.zeros_like(wanted)

    with torch.no_grad():
        wants = bool(_output(target, images).decisions.any())
        with target.evaluating(governor=refusing):
            outputs = [_output(target, images), target.execute(images[:1])]
    if wants and not asked:
        raise NotKept("it says that it admits, but no decision passes through admit")
    for output in outputs:
        if bool(output.decisions.any()):
            raise NotKept(
                f"{target.units.name[int(output.decisions.nonzero()[0, 1])]} ran though the "
                "governor held everything back"
            )


def _mask_values(target: Target, images: Tensor) -> None:
    with target.evaluating(mask_grad="ste"):
        soft = _output(target, images.clone().requires_grad_()).detach()
    with target.evaluating(mask_grad="none"):
        hard = _output(target, images.clone().requires_grad_()).detach()
    apart = float((soft.logits - hard.logits).abs().max())
    if apart > BATCH_TOLERANCE or not torch.equal(soft.decisions, hard.decisions):
        raise NotKept(f"logits differ by {apart:.3g} between mask_grad = 'ste' and 'none'")


def finite_difference(
    value: Callable[[Tensor], Tensor], images: Tensor, direction: Tensor, step: float = 1e-3
) -> Tensor:
    """The central difference (value(x + h d) - value(x - h d)) / 2h, in float64.

    Args:
        value: images -> one number a row.
        images: (N, C, H, W), the place x.
        direction: (N, C, H, W), the direction d.
        step: h.

    Returns:
        (N,) float64, the derivative along the direction.

    Examples:
        >>> import torch
        >>> x, d = torch.full((1, 1, 1, 1), 3.0), torch.ones(1, 1, 1, 1)
        >>> slope = finite_difference(lambda images: images.flatten(1).square().sum(1), x, d)
        >>> f"{float(slope):.3f}"
        '6.000'
    """
    x, d = images.to(torch.float64), direction.to(torch.float64)
    return (value(x + step * d) - value(x - step * d)) / (2 * step)
