"""How a target is evaluated: one value, changed in one place."""

import typing
from dataclasses import fields

import pytest
import torch

from bench.api import Evaluation, EvaluationChanges
from bench.testing import ToyTarget


def test_the_changes_are_the_fields_of_an_evaluation():
    known = typing.get_type_hints(Evaluation)
    assert typing.get_type_hints(EvaluationChanges) == known
    assert set(known) == {field.name for field in fields(Evaluation)}


def test_evaluating_changes_what_is_named_and_puts_it_back():
    target = ToyTarget()
    seeds = torch.arange(3)
    with target.evaluating(seeds=seeds):
        with target.evaluating(mask_grad="ste", loss=2):
            assert target.evaluation.seeds is seeds
            assert (target.evaluation.mask_grad, target.evaluation.loss) == ("ste", 2)
        assert target.evaluation.mask_grad == "none"
        assert target.evaluation.seeds is seeds
    assert target.evaluation == Evaluation()


def test_evaluating_puts_back_after_an_exception():
    target = ToyTarget()
    with pytest.raises(LookupError), target.evaluating(surrogate=False):
        raise LookupError
    assert target.evaluation.surrogate


def test_evaluating_refuses_a_name_that_no_evaluation_has():
    with pytest.raises(TypeError, match="mask_grads"), ToyTarget().evaluating(mask_grads="ste"):
        pass


def test_two_targets_do_not_share_their_evaluation():
    first, second = ToyTarget(), ToyTarget()
    with first.evaluating(mask_grad="ste"):
        assert second.evaluation.mask_grad == "none"


def test_floor_and_ceiling_are_computed_once():
    class Counting(ToyTarget):
        asked = 0

        def extremes(self):
            self.asked += 1
            return super().extremes()

    target = Counting()
    assert {(target.floor, target.ceiling, target.bound) for _ in range(5)} == {
        (7203, 35619, 35619)
    }
    assert target.asked == 2
