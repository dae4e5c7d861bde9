"""The public interface: every contract and value type that a plugin needs.

Images are float tensors in [0,1] of shape (N, C, H, W); targets normalize inside. MACs are 64-bit
integers. `bench.testing` checks an implementation against what is promised here.
"""

from bench.contracts.attack import Attack, Job, Losses, Skip, View, image_generator
from bench.contracts.dataset import Dataset, Part, PixelDataset, content_ids
from bench.contracts.defense import Defense
from bench.contracts.executor import Event, Task
from bench.contracts.recipe import Moment, Recipe, Schedule, Stage
from bench.contracts.report import BoardReport, ComparisonReport, RegressionReport, SavedImages
from bench.contracts.target import (
    Evaluation,
    EvaluationChanges,
    ForkEdit,
    Governor,
    MaskGrad,
    Output,
    Target,
)
from bench.contracts.threat import Threat, parse_threat
from bench.contracts.units import Units
from bench.errors import BudgetSpent

__all__ = [
    "Attack",
    "BoardReport",
    "BudgetSpent",
    "ComparisonReport",
    "Dataset",
    "Defense",
    "Evaluation",
    "EvaluationChanges",
    "Event",
    "ForkEdit",
    "Governor",
    "Job",
    "Losses",
    "MaskGrad",
    "Moment",
    "Output",
    "Part",
    "PixelDataset",
    "Recipe",
    "RegressionReport",
    "SavedImages",
    "Schedule",
    "Skip",
    "Stage",
    "Target",
    "Task",
    "Threat",
    "Units",
    "View",
    "content_ids",
    "image_generator",
    "parse_threat",
]
