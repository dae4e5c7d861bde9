"""ManiDP: a residual network that leaves out the channels whose saliency for this image lies under
a learned threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.errors import PlanError
from targets.pieces.channels import ChannelGated, Convolution, Gated

MOST = 1000.0
"""The highest saliency; the authors' guard against exploding products of saliencies."""
FADING = 0.98
"""What is left, a step later, of a saliency's weight in the running mean."""
EVERYTHING = -1e4
"""The threshold of a network whose thresholds were not set yet: every channel is kept."""


class SaliencyBranch(nn.Module):
    """Two linear layers that rate the channels of a convolution from the pooled features in front
    of it.

    Args:
        inputs, outputs: C_in and C of the convolution.
        squeeze: the inner layer has C / squeeze features.

    Attributes:
        thre: () float, the saliency from which on a channel is kept.
        mask_sum: (C,) float, the sum of saliencies over recent training images, older ones counting
            less.
        mask_count: () float, the sum of the weights with which they count.
    """

    thre: Tensor
    mask_sum: Tensor
    mask_count: Tensor

    def __init__(self, inputs: int, outputs: int, squeeze: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, outputs // squeeze, bias=False)
        self.fc2 = nn.Linear(outputs // squeeze, outputs)
        self.register_buffer("thre", torch.tensor(EVERYTHING))
        self.register_buffer("mask_sum", torch.zeros(outputs))
        self.register_buffer("mask_count", torch.tensor(0.0))

    def forward(self, pooled: Tensor) -> Tensor:
        """(N, C) values before the last ReLU, from (N, C_in)."""
        values: Tensor = self.fc2(self.fc1(pooled).relu())
        return values

    def add(self, saliency: Tensor) -> None:
        """Add the saliencies (N, C) of a step to the sum, whose older terms fade by `FADING`."""
        self.mask_sum.mul_(FADING).add_(saliency.detach().sum(0))
        self.mask_count.mul_(FADING).add_(len(saliency))

    def set_threshold(self, share: float) -> None:
        """The threshold that ceil(share C) channels reach with their mean saliency."""
        ranked = (self.mask_sum / self.mask_count).sort(descending=True).values
        self.thre.copy_(ranked[math.ceil(round(share * len(ranked), 9)) - 1])


class ManiDP(ChannelGated):
    """A ResNet that leaves out channels: those whose saliency for this image is under their layer's
    threshold.

    Args:
        depth: 6n+2 in the cifar layout (20, 32 and 56 in the paper); 18 or 34 in the imagenet
            layout.
        layout: "cifar" takes 32x32 images, "imagenet" 224x224.
        squeeze: how much narrower the inner layer of a branch is; halved for convolutions of fewer
            than 80 channels.
        num_classes: "auto" is 10 for cifar and 1000 for imagenet.
        threshold_factor: f, by which all thresholds are multiplied; larger ones save more.
            Published at 1.

    A channel's saliency is s = min(relu(fc2(relu(fc1(mean x)))), 1000); it is kept when s >= f thre
    and then multiplied by s. There is one thre for each convolution, found by the recipe and stored
    with the weights (fresh networks keep everything).

    Unit: an output channel of a convolution inside a block; gate value s, threshold f thre. The
    margins of channels at saliency 0 have no gradient; the logit margins take the value before the
    last ReLU and have one. Where thre <= 0 nothing is ever closed and both margins are the same.
    Straight-through masks let closed channels pass the gradient of their saliency.

    It stands on the same ResNet as the other families here, so that one static twin serves all. The
    authors' CIFAR network differs in a projection without batch normalization and in the mean and
    deviation of its inputs; there are no official weights that this could keep from loading.

    Source: Tang et al., Manifold Regularized Dynamic Network Pruning, CVPR 2021; where the paper
    leaves the branch open,
    the authors' code.
    """

    follows = "Tang et al., Manifold Regularized Dynamic Network Pruning, CVPR 2021"
    unit = "an output channel of a 3x3 convolution inside a block"
    skipped = (
        "closed output channels of each convolution, and in the second one of a block also the "
        "inputs that the first left out"
    )
    unkeyed_defaults: ClassVar[tuple[str, ...]] = ("threshold_factor",)
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "threshold_factor": (0, None)
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "20": {"depth": 20},
        "32": {"depth": 32},
        "56": {"depth": 56},
        "imagenet-18": {"depth": 18, "layout": "imagenet"},
        "imagenet-34": {"depth": 34, "layout": "imagenet"},
    }

    def __init__(
        self,
        *,
        depth: int = 20,
        layout: Literal["cifar", "imagenet"] = "cifar",
        squeeze: int = 2,
        num_classes: int | Literal["auto"] = "auto",
        threshold_factor: float = 1.0,
    ) -> None:
        if not 0 < threshold_factor < math.inf:
            raise PlanError(f"threshold_factor = {threshold_factor}: a number above 0")
        self.squeeze, self.threshold_factor = squeeze, threshold_factor
        super().__init__(layout, depth, num_classes)
        self.read_thresholds()
        nn.Module.register_load_state_dict_post_hook(self, _after_loading)

    def branch_for(self, convolution: Convolution) -> SaliencyBranch:
        """The branch; narrow convolutions are squeezed half as much, as in the authors' code."""
        squeeze = self.squeeze if convolution.outputs >= 80 else max(1, self.squeeze // 2)
        return SaliencyBranch(convolution.inputs, convolution.outputs, squeeze)

    def start_branch(self, branch: nn.Module) -> None:
        """Biases start at 1, so that every channel starts near saliency 1."""
        assert isinstance(branch, SaliencyBranch)
        nn.init.ones_(branch.fc2.bias)

    def branches(self) -> list[SaliencyBranch]:
        """All branches, in the order of the convolutions."""
        return [
            branch
            for one in self.convolutions
            if isinstance(branch := self.get_submodule(one.branch), SaliencyBranch)
        ]

    def read_thresholds(self) -> None:
        """Make the unit table follow the thresholds in the weights."""
        self.units = self.table(
            [
                float(self._thre(branch)) if not branch.thre.is_meta else EVERYTHING
                for branch in self.branches()
            ],
            0.0,
            MOST,
        )

    def saliency(self, value: Tensor) -> Tensor:
        """min(relu(value), 1000)."""
        return value.relu().clamp(max=MOST)

    def keep(self, index: int, value: Tensor) -> Tensor:
        """Where the saliency reaches the threshold."""
        return self.saliency(value) >= self._thre(self.branches()[index])

    def margins(self, seen: Sequence[Gated]) -> tuple[Tensor, Tensor]:
        """saliency - thre, and the same before the last ReLU."""
        hard, soft = [], []
        for branch, one in zip(self.branches(), seen, strict=True):
            thre = self._thre(branch)
            hard.append(one.saliency - thre)
            soft.append(torch.where(thre > 0, one.value, one.saliency) - thre)
        return torch.cat(hard, 1), torch.cat(soft, 1)

    def _thre(self, branch: SaliencyBranch) -> Tensor:
        """The saliency from which on a channel of this branch is kept."""
        return branch.thre if self.threshold_factor == 1 else branch.thre * self.threshold_factor


def _after_loading(target: ManiDP, _: object) -> None:
    target.read_thresholds()
