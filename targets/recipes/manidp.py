"""How our ManiDPs are trained: from the static network, with thresholds that follow the running
mean of the saliencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Moment, Target
from bench.errors import PlanError
from targets.manidp import ManiDP
from targets.pieces.channels import Gated
from targets.recipes.stage import Metrics, TrainingStage, accuracy
from targets.recipes.static import StaticStage, family_name


@dataclass(frozen=True, kw_only=True)
class DynamicStage(TrainingStage):
    """dynamic: saliencies pushed down on easy images and made as alike as the features are,
    thresholds rising with them.

    loss = CE + lasso sum_l mean_i w_i mean_c s_lic + graph sum_l mean_ij (cos(s_li, s_lj) -
    cos(f_li, f_lj))^2,

    s the saliencies of layer l, f the pooled features that its branch reads, and w_i = max(0, 1 -
    CE_i / (easy L)), L the mean cross-entropy of the epoch before (0 in the first epoch): only
    images that are classified easily are pushed (Tang et al., CVPR 2021, equations 4 to 9). The
    threshold of a layer is the ceil(r C)-th largest mean saliency of its channels, r falling on a
    cosine from 1 to `remain`.

    The authors train 400 epochs by SGD and set thresholds between epochs, from the mean over an
    epoch. This is a short warm-started schedule in which saliencies drift much faster, so
    thresholds follow after every step, from a mean over the last steps; r reaches `remain` after
    the share `ramp` of the training, and weights and thresholds then settle together.

    Attributes:
        depth, layout, squeeze: as in `ManiDP`.
        remain: the share of channels whose mean saliency reaches the threshold.
        lasso, graph: weights of the two terms.
        easy: how small, against the mean, the cross-entropy of an easy image is.
        ramp: the share of the training after which r is `remain`.
    """

    depth: int = 20
    layout: Literal["cifar", "imagenet"] = "cifar"
    squeeze: int = 2
    epochs: int = 10
    lr: float = 2e-3
    remain: float = 0.6
    lasso: float = 5e-3
    graph: float = 1.0
    easy: float = 0.5
    ramp: float = 0.5

    start: ClassVar[str] = "static"
    target_name: ClassVar[str] = "manidp"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("remain", "ramp"):
            if not 0 < getattr(self, name) <= 1:
                raise PlanError(f"{name} = {getattr(self, name)}: a share, above 0 and at most 1")

    def target_params(self) -> dict[str, Any]:
        """The parameters under which the trained network is used."""
        return {"depth": self.depth, "layout": self.layout, "squeeze": self.squeeze}

    def build(self, classes: int) -> Target:
        """The network to train, with fresh branches."""
        return ManiDP(**self.target_params(), num_classes=classes)

    def weights_name(self, stage: str) -> str:
        """ "manidp-20-dynamic"."""
        return family_name("manidp", self.depth, self.layout, stage)

    def groups(self, target: Target) -> list[dict[str, Any]]:
        """Branches without weight decay."""
        branches = [value for name, value in target.named_parameters() if "_branch" in name]
        others = [value for name, value in target.named_parameters() if "_branch" not in name]
        return [{"params": others}, {"params": branches, "weight_decay": 0.0}]

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy, the weighted lasso and the similarity term."""
        assert isinstance(target, ManiDP)
        logits, seen = target.walk(images, target.keep)
        error = F.cross_entropy(logits.float(), labels, reduction="none")
        weight = self.weights(
            error.detach(), moment.history[-1]["error"] if moment.history else 0.0
        )
        sparse = torch.stack([(weight[:, None] * one.saliency).mean() for one in seen]).sum()
        alike = torch.stack([similarity_gap(one) for one in seen]).sum()
        for branch, one in zip(target.branches(), seen, strict=True):
            branch.add(one.saliency)
            branch.set_threshold(self.share(moment.done))
        kept = torch.cat([one.kept for one in seen], 1).float().mean()
        shown = {
            "error": error.detach().mean(),
            "accuracy": accuracy(logits, labels),
            "open": kept,
            "alike": alike.detach(),
        }
        return error.mean() + self.lasso * sparse + self.graph * alike, shown

    def end_epoch(self, target: Target, history: Sequence[Mapping[str, float]]) -> None:
        """The unit table follows the thresholds."""
        assert isinstance(target, ManiDP)
        target.read_thresholds()

    def weights(self, error: Tensor, before: float) -> Tensor:
        """(N,) w_i, from cross-entropies and their mean in the epoch before."""
        return (
            (1 - error / (self.easy * before)).clamp(min=0) if before else torch.zeros_like(error)
        )

    def share(self, done: float) -> float:
        """r when the share `done` of the training lies behind."""
        return (
            self.remain
            + (1 - self.remain) * (1 + math.cos(math.pi * min(1.0, done / self.ramp))) / 2
        )


def similarity_gap(seen: Gated) -> Tensor:
    """() the mean over pairs of images of (cos(s_i, s_j) - cos(f_i, f_j))^2; no gradient reaches
    the features."""
    saliencies = F.normalize(seen.saliency, dim=1)
    features = F.normalize(seen.pooled.detach(), dim=1)
    return (saliencies @ saliencies.T - features @ features.T).square().mean()


class ManiDPRecipe:
    """ManiDP in stages: static (plain ResNet), dynamic (channel gates, starting from it)."""

    stages: ClassVar[Mapping[str, type[TrainingStage]]] = {
        "static": StaticStage,
        "dynamic": DynamicStage,
    }
