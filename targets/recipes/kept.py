"""Training on top of a static twin: most of its convolutions can stay as they are, so that weights
hold little more than gates and normalizations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from bench.api import Part, Target
from bench.errors import PlanError
from targets.recipes.distillation import round_to_half
from targets.recipes.stage import TrainingStage
from targets.resnet import layout_for


@dataclass(frozen=True, kw_only=True)
class KeptStage(TrainingStage):
    """A stage that puts gates on a plain ResNet and may keep the convolutions of its later groups.

    Attributes:
        depth, layout: as in `ResNet`.
        kept_from: the name of the weights that it starts from, whose convolutions in the blocks
            of the group `first_kept` and those behind it are not trained: the new weights then name
            them instead of holding them again. "" trains everything.
        first_kept: a group, from 1.
        gate_lr: the learning rate of the gates, as a multiple of that of all else.
        rounded: whether the weights that it holds end as half-precision numbers, of which files are
            half as large; what is measured is measured with them.
    """

    depth: int = 20
    layout: Literal["cifar", "imagenet"] = "cifar"
    kept_from: str = ""
    first_kept: int = 2
    gate_lr: float = 10.0
    rounded: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        groups = len(layout_for(self.layout, self.depth).counts)
        if not self.gate_lr > 0:
            raise PlanError(f"gate_lr = {self.gate_lr}: must be above 0")
        if not 1 <= self.first_kept <= groups:
            raise PlanError(f"first_kept = {self.first_kept}: a group, from 1 to {groups}")

    def borrowed(self) -> Mapping[str, str]:
        """The convolutions that are kept, block by block."""
        if not self.kept_from:
            return {}
        counts = layout_for(self.layout, self.depth).counts
        return {
            f"group{group}_layer{index}.conv": self.kept_from
            for group, count in enumerate(counts, start=1)
            for index in range(count)
            if group >= self.first_kept
        }

    def begin(self, target: Target) -> None:
        """No gradient for what is kept."""
        for name, parameter in target.named_parameters():
            if name.startswith(tuple(self.borrowed())):
                parameter.requires_grad_(False)

    def groups(self, target: Target) -> list[dict[str, Any]]:
        """All parameters but those that are kept; gates by themselves."""
        kept = tuple(self.borrowed())
        gates: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in target.named_parameters():
            if not name.startswith(kept):
                (gates if "_gate" in name else others).append(parameter)
        return [{"params": others}, {"params": gates, "scale": self.gate_lr}]

    def finish(self, target: Target, held: Part) -> None:
        """Round what is not kept."""
        if self.rounded:
            round_to_half(target, but=tuple(self.borrowed()))
