"""Numbers that a target declares are whole ones in range, which is said before any attack."""

import numpy as np
import pytest
import torch

from bench.errors import ContractBroken
from bench.evaluation.outputs import freeze
from bench.evaluation.target_checks import examine
from bench.testing import ToyTarget, sample_images

WRONG = {
    "floor-float": ("floor", 7203.0, "floor is 7203.0 (float)"),
    "ceiling-float": ("ceiling", 35619.0, "ceiling is 35619.0 (float)"),
    "bound-float": ("bound", 35619.0, "bound is 35619.0 (float)"),
    "bound-below": ("bound", 35618, "at least 35619"),
    "bound-huge": ("bound", 10**30, "bound is 1000"),
    "bound-nothing": ("bound", None, "bound is None (NoneType)"),
    "draws-none": ("draws", 0, "draws is 0 (int)"),
    "draws-negative": ("draws", -1, "draws is -1 (int)"),
    "draws-bool": ("draws", True, "draws is True (bool)"),
    "draws-float": ("draws", 2.0, "draws is 2.0 (float)"),
}


def declaring(name, value):
    """A toy target that declares another number."""
    kind = type("Declaring", (ToyTarget,), {name: property(lambda self: value)})
    target = kind()
    freeze(target)
    return target


@pytest.mark.parametrize("case", WRONG)
def test_a_number_that_cannot_be_stored_is_refused_before_any_attack(case):
    name, value, said = WRONG[case]
    with pytest.raises(ContractBroken) as error:
        examine(declaring(name, value), sample_images((3, 8, 8)))
    assert said in error.value.message
    assert error.value.hint


@pytest.mark.parametrize("name", ["floor", "ceiling", "bound", "draws"])
@pytest.mark.parametrize("kind", [np.int64, torch.tensor], ids=["numpy", "torch"])
def test_whole_numbers_of_other_kinds_are_taken_for_what_they_are(name, kind):
    plain = ToyTarget()
    freeze(plain)
    images = sample_images((3, 8, 8))
    found = examine(declaring(name, kind(getattr(plain, name))), images)
    assert found == examine(plain, images)
