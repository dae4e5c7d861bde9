"""A defended network under attack: fails when it saves less than a third, or gets worse."""

import os
from pathlib import Path

import pytest

from bench.pytest_plugin import assert_no_regression, assert_saving_survives

LIMIT = float(os.environ.get("CAP", "0.65"))  # the defense under test; CAP=1.0 weakens it


@pytest.mark.gatebench
def test_the_cap_keeps_what_is_saved(gatebench):
    defense = {"use": "cap", "label": "cap", "params": {"limit": LIMIT}}
    result = gatebench.run(
        target="skipnet-20-budget@digits-m", defense=defense, attack="gradauto", images=64
    )
    assert_no_regression(result, Path(__file__).with_name("baseline.json"))
    assert_saving_survives(result, at_least=0.33)
