"""How our SACT and ACT networks are trained: the plain pre-activation network first, then halting
under a ponder cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Moment, Target
from bench.errors import PlanError
from targets.recipes.stage import Metrics, TrainingStage, accuracy
from targets.sact import SACT
from targets.sact.halting import HaltingScore


@dataclass(frozen=True, kw_only=True)
class _Stage(TrainingStage):
    """What the stages share.

    Attributes:
        depth, layout: as in `SACT`.
    """

    depth: int = 20
    layout: Literal["cifar", "imagenet"] = "cifar"

    target_name: ClassVar[str] = "sact"
    halting: ClassVar[Literal["sact", "act", "none"]] = "none"

    def target_params(self) -> dict[str, Any]:
        """The parameters under which the trained network is used."""
        return {"depth": self.depth, "halting": self.halting, "layout": self.layout}

    def build(self, classes: int) -> Target:
        """The network to train, with fresh weights."""
        return SACT(**self.target_params(), num_classes=classes)

    def weights_name(self, stage: str) -> str:
        """ "sact-20-sact", "sact-20-act"; "sact-20-static" never halts."""
        return f"sact-{self.depth}{'' if self.layout == 'cifar' else f'-{self.layout}'}-{stage}"


@dataclass(frozen=True, kw_only=True)
class PlainNetworkStage(_Stage):
    """static: the pre-activation network that never halts; what the others start from and are held
    against."""

    optimiser: Literal["adamw", "sgd"] = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy."""
        output = target(images)
        return F.cross_entropy(output.logits.float(), labels), {
            "accuracy": accuracy(output.logits, labels)
        }


@dataclass(frozen=True, kw_only=True)
class SpatialStage(_Stage):
    """sact: halting scores for each position, under a ponder cost, starting from the static
    network.

    loss = CE + ponder sum_blocks mean_positions (N + R), equation 6 of Figurnov et al., CVPR 2017,
    with N units run and remainder R. The authors train 100,000 steps of SGD with ponder 0.01; this
    is a short warm-started schedule, in which the weight of the ponder cost rises from 0 over the
    first quarter. Short blocks cannot halt from scores that begin at sigmoid(-3), so the bias is a
    setting.

    Attributes:
        ponder: weight of the ponder cost.
        halting_bias: of the scores' logits at the start, whose weights begin near 0; "keep" leaves
            the scores as they are in the weights that it starts from, to go on with `--from`.
    """

    epochs: int = 10
    lr: float = 2e-3
    ponder: float = 0.02
    halting_bias: float | Literal["keep"] = -1.0

    start: ClassVar[str] = "static"
    halting: ClassVar[Literal["sact", "act", "none"]] = "sact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ponder < 0:
            raise PlanError(f"ponder = {self.ponder}: at least 0")

    def begin(self, target: Target) -> None:
        """Start the scores at their bias."""
        if self.halting_bias == "keep":
            return
        for module in target.modules():
            if isinstance(module, HaltingScore):
                module.start(self.halting_bias)

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy and the ramped ponder cost."""
        assert isinstance(target, SACT)
        logits, runs = target.walk(images)
        pondered = torch.stack([run.ponder() for run in runs]).sum(0).mean()
        ran = torch.cat([active.flatten() for run in runs for active in run.active]).float().mean()
        weight = self.ponder * min(1.0, 4 * moment.done)
        loss = F.cross_entropy(logits.float(), labels) + weight * pondered
        return loss, {
            "accuracy": accuracy(logits, labels),
            "ponder": pondered.detach(),
            "open": ran,
        }


@dataclass(frozen=True, kw_only=True)
class ImageStage(SpatialStage):
    """act: one halting score for the whole image in each unit, otherwise as `sact`."""

    halting: ClassVar[Literal["sact", "act", "none"]] = "act"


class SACTRecipe:
    """SACT in stages: static (never halts), sact (halts by position), act (halts by image), both
    starting from static."""

    stages: ClassVar[Mapping[str, type[TrainingStage]]] = {
        "static": PlainNetworkStage,
        "sact": SpatialStage,
        "act": ImageStage,
    }
