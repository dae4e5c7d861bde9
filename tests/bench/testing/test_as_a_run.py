"""`plugin test` promises what a run checks: what a run refuses is a finding, in the same words."""

import copy
import threading
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks.gradauto import GradAuto
from bench.api import Job, Threat
from bench.errors import ContractBroken
from bench.evaluation.equivalence import equivalent_of
from bench.evaluation.outputs import freeze
from bench.evaluation.sealed_view import SealedView
from bench.evaluation.target_checks import (
    check_stateless,
    copy_target,
    evaluate,
    examine,
)
from bench.evaluation.view import TargetView
from bench.testing import ToyTarget, check_target, problems, sample_images


class Locked(ToyTarget):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class OldWeightNorm(ToyTarget):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.head = nn.utils.weight_norm(self.head)


class FloatMacs(ToyTarget):
    def macs(self, decisions):
        return super().macs(decisions).float()


class Tuples(ToyTarget):
    def forward(self, images, decisions=None):
        output = super().forward(images, decisions)
        return output.logits, output.margins


class InPlace(ToyTarget):
    def forward(self, images, decisions=None):
        return super().forward(images if images.requires_grad else images.mul_(1.0 - 1e-6))


class Lazy(ToyTarget):
    def __init__(self):
        super().__init__()
        self.extra = nn.LazyLinear(3)


class OtherEquivalent(ToyTarget):
    def equivalent(self):
        other = copy.deepcopy(self)
        with torch.no_grad():
            other.head.bias += 0.1
        return other


class NoEquivalent(ToyTarget):
    def equivalent(self):
        return None


class RemembersGradients(ToyTarget):
    asked = 0

    def forward(self, images, decisions=None):
        self.asked += images.requires_grad
        output = super().forward(images, decisions)
        return replace(output, logits=output.logits + (self.asked > 2))


class NoMarginalMacs(ToyTarget):
    def marginal_macs(self, decisions):
        return self.units.cost.double()


BROKEN = {
    "equivalent": (OtherEquivalent, "the logits of the equivalent network differ by"),
    "no-equivalent": (NoEquivalent, r"equivalent\(\) returned NoneType"),
    "remembers-gradients": (RemembersGradients, "the target is stateful"),
    "marginal-macs": (NoMarginalMacs, "marginal_macs"),
    "lock": (Locked, "cannot be copied"),
    "old-weight-norm": (OldWeightNorm, "cannot be copied"),
    "float-macs": (FloatMacs, "returns torch.float32"),
    "tuple": (Tuples, "returned tuple"),
    "in-place": (InPlace, "forward edited its images in place"),
    "lazy": (Lazy, "has no shape yet"),
}


def as_a_run_does(target):
    """Open it, let an attack ask for gradients, and score what that attack evaluated."""
    images = sample_images((3, 8, 8))
    freeze(target)
    examine(copy_target(target), images)
    reference = equivalent_of(target, images)
    attacked, seeds = copy_target(reference), torch.arange(len(images))
    GradAuto().perturb(
        SealedView(TargetView.of(attacked, images, 30)),
        images.clone(),
        torch.zeros(len(images), dtype=torch.long),
        Job(Threat("linf", 8 / 255), 30, tuple("abcdef")),
    )
    check_stateless(attacked, images, evaluate(reference, images, seeds), seeds)


@pytest.mark.parametrize(("kind", "said"), BROKEN.values(), ids=BROKEN)
def test_what_a_run_refuses_is_the_first_finding_in_the_same_words(kind, said):
    with pytest.raises(ContractBroken, match=said) as caught:
        as_a_run_does(kind())
    assert caught.value.hint
    first = check_target(kind())[0]
    assert first.promise.startswith("a run can open it")
    assert first.problem == caught.value.message


def test_a_target_that_a_run_opens_has_no_finding_there():
    as_a_run_does(ToyTarget())
    assert not check_target(ToyTarget())[0].problem


def test_testing_a_target_leaves_it_as_it_was():
    target = ToyTarget()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    check_target(target)
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())


class Selfish(ToyTarget):
    def __deepcopy__(self, memo):
        return self


class Sharing(ToyTarget):
    def __deepcopy__(self, memo):
        copied = ToyTarget()
        copied.stem = self.stem
        return copied


class Typed(ToyTarget):
    def state_dict(self, *rest, **named):
        return {**super().state_dict(*rest, **named), "head.dtype": torch.qint8}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param(Selfish, "a copy of the target is the target itself", id="copy-is-itself"),
        pytest.param(Sharing, "shares a module with it", id="copy-shares-a-module"),
        pytest.param(Typed, "head.dtype of the state is dtype, no tensor", id="no-tensor-in-state"),
    ],
)
def test_a_target_without_copies_or_weights_of_its_own_is_refused(kind, said):
    assert said in problems(check_target(kind()))[0]
