"""The contract tests and a toy target, for authors of plugins.

In a plugin's own test suite:

    from bench.testing import check_target, problems

    def test_contract():
        assert not problems(check_target(MyTarget()))

`gatebench plugin test MODULE:CLASS` runs the same checks.
"""

from bench.testing.attack import check_attack
from bench.testing.dataset import check_dataset
from bench.testing.defense import check_defense
from bench.testing.findings import Finding, problems
from bench.testing.recipe import check_recipe
from bench.testing.report import check_report, sample_board
from bench.testing.samples import random_decisions, sample_images, sample_threats
from bench.testing.target import check_target, finite_difference
from bench.testing.toy import ToyTarget

__all__ = [
    "Finding",
    "ToyTarget",
    "check_attack",
    "check_dataset",
    "check_defense",
    "check_recipe",
    "check_report",
    "check_target",
    "finite_difference",
    "problems",
    "random_decisions",
    "sample_board",
    "sample_images",
    "sample_threats",
]
