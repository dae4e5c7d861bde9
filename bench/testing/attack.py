"""Contract tests of attacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bench.contracts.attack import Attack, Job, Skip
from bench.contracts.target import Target
from bench.contracts.threat import Threat
from bench.errors import BudgetSpent
from bench.evaluation.judge import judge_images
from bench.evaluation.ledger import check_paid
from bench.evaluation.meter import ForwardMeter
from bench.evaluation.outputs import check_unchanged, freeze
from bench.evaluation.plain import plain_copy
from bench.evaluation.sealed_view import SealedView
from bench.evaluation.target_checks import copy_target
from bench.evaluation.view import TargetView
from bench.evaluation.withheld import without_weights
from bench.image import difference, inside, to_float
from bench.testing.findings import Finding, NotKept, found
from bench.testing.samples import sample_images, sample_threats
from bench.testing.toy import ToyTarget


def check_attack(attack: Attack, target: Target | None = None, budget: int = 40) -> list[Finding]:
    """Check an attack against its contract, under every threat that it supports.

    Args:
        attack: to be tested.
        target: to test it on; `ToyTarget` when left out. It is copied, as a run does.
        budget: forward-equivalents an image.

    Returns:
        One finding a promise; `problems` lists those that are broken.

    Examples:
        >>> from attacks.controls import Identity
        >>> from bench.testing import check_attack, problems
        >>> problems(check_attack(Identity()))
        []
    """
    victim = ToyTarget() if target is None else target
    state = freeze(victim)
    clean8 = (sample_images(victim.image_shape)[:4] * 255).round().to(torch.uint8)
    findings = []
    for threat in sample_threats():
        answers: list[Skip | None] = []
        asked = found(
            f"{threat}: supports() answers", partial(_ask, attack, victim, threat, answers)
        )
        if asked.problem:
            findings.append(asked)
            continue
        refusal = answers[0]
        if refusal is not None:
            findings.append(found(f"{threat}: a refusal says why", partial(_reasoned, refusal)))
            continue
        run = partial(_perturbed, attack, victim, state, clean8, threat, budget)
        seen: list[Tensor] = []
        promise = f"{threat}: keeps to range, budget, threat and weights"
        findings.append(found(promise, partial(_attacked, run, clean8, threat, seen)))
        findings.append(found(f"{threat}: repeats itself exactly", partial(_repeats, run, seen)))
    if all(finding.promise.endswith("a refusal says why") for finding in findings):
        findings.append(Finding("runs under some threat", "it refuses every threat on this target"))
    return findings


def _ask(attack: Attack, target: Target, threat: Threat, answers: list[Skip | None]) -> None:
    """Append what the attack says of a target, which it is shown as in a run."""
    answers.append(attack.supports(without_weights(target), threat))


def _reasoned(refusal: object) -> None:
    if not isinstance(refusal, Skip):
        raise NotKept(f"supports() returned {refusal!r}, neither None nor a Skip with its reason")
    if not refusal.reason.strip():
        raise NotKept("supports() refuses without a reason")


def _perturbed(
    attack: Attack,
    target: Target,
    state: dict[str, Tensor],
    clean8: Tensor,
    threat: Threat,
    budget: int,
) -> Tensor:
    """What the attack returns, after everything that a run checks about it."""
    clean = to_float(clean8)
    handed, attacked = clean.clone(), copy_target(target)
    meter = ForwardMeter(attacked)
    attack.supports(without_weights(target), threat)
    with torch.no_grad():
        labels = target(clean.clone()).logits.argmax(1)
    fitted = _fitted(attack, attacked, meter, threat, budget)
    view = TargetView.of(attacked, clean, budget, attack.access, meter=meter)
    ids = tuple(f"image-{i}" for i in range(len(clean)))
    met = meter.images
    try:
        with meter.withheld("the attack"):
            adversarial = attack.perturb(
                SealedView(view), handed, labels, Job(threat, budget, ids, fitted=fitted)
            )
    except BudgetSpent as error:
        raise NotKept("BudgetSpent was not caught: stop, and return what is kept") from error
    if not torch.equal(handed, clean):
        raise NotKept("the clean images were edited in place")
    check_unchanged(attacked, state, "the attack")
    check_paid(meter.images - met, view.ledger, "the attack")
    return adversarial


def _fitted(
    attack: Attack, attacked: Target, meter: ForwardMeter, threat: Threat, budget: int
) -> dict[str, Tensor]:
    """What an attack that fits learns from eight other images."""
    if not attack.fits:
        return {}
    images = sample_images(attacked.image_shape, 12)[4:]
    handed, met = images.clone(), meter.images
    view = TargetView.of(attacked, images, budget, attack.access, meter=meter)
    job = Job(threat, budget, tuple(f"fit-{i}" for i in range(len(images))))
    try:
        with meter.withheld("fit"):
            learned = attack.fit(SealedView(view), handed, job)
    except BudgetSpent as error:
        raise NotKept("BudgetSpent was not caught in fit: stop, and return what is kept") from error
    check_paid(meter.images - met, view.ledger, "fit")
    if not torch.equal(handed, images):
        raise NotKept("the fit images were edited in place")
    kept = {name: plain_copy(value, f"{name!r} of fit") for name, value in learned.items()}
    if not kept or not all(bool(torch.isfinite(value).all()) for value in kept.values()):
        raise NotKept("fit returned no finite tensors, though the attack says that it fits")
    return kept


def _attacked(
    run: Callable[[], Tensor], clean8: Tensor, threat: Threat, seen: list[Tensor]
) -> None:
    """Judge the images of a run and append a copy of them to `seen`."""
    adversarial = run()
    seen.append(plain_copy(adversarial, "the images"))
    judged = judge_images(adversarial, clean8, threat)
    if bool(judged.overshoot.any()):
        raise NotKept(
            f"the images leave the threat {threat} or [0,1]; project each iterate with "
            "bench.image.project"
        )
    if not bool(inside(difference(judged.saved, clean8), threat).all()):
        raise NotKept("a saved image is outside its threat")


def _repeats(run: Callable[[], Tensor], seen: list[Tensor]) -> None:
    """Compare another run with the one in `seen`, or with a new one where there is none."""
    first = seen[0] if seen else plain_copy(run(), "the images")
    if not torch.equal(first, plain_copy(run(), "the images")):
        raise NotKept(
            "two equal calls return different images; draw from job.draw or job.generators, not "
            "from the global stream"
        )
