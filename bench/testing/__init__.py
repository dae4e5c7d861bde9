"""The contract tests and a toy target, for authors of plugins."""

from bench.testing.checks import (
    Finding,
    check_attack,
    check_defense,
    check_target,
    finite_difference,
    problems,
)
from bench.testing.samples import random_decisions, sample_images, sample_threats
from bench.testing.toy import ToyTarget

__all__ = [
    "Finding",
    "ToyTarget",
    "check_attack",
    "check_defense",
    "check_target",
    "finite_difference",
    "problems",
    "random_decisions",
    "sample_images",
    "sample_threats",
]
