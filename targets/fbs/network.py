"""FBS as a control: as many channels on every image, so that no attack can win anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.errors import PlanError
from targets.pieces.channels import ChannelGated, Convolution, Gated


class FBS(ChannelGated):
    """A ResNet that keeps the k most salient channels of each convolution: a fixed budget, the
    control that attacks cannot move.

    Args:
        depth: 6n+2 in the cifar layout; 18 or 34 in the imagenet layout.
        layout: "cifar" takes 32x32 images, "imagenet" 224x224.
        density: d in (0, 1], the share of channels kept; k = ceil(d C).
        num_classes: "auto" is 10 for cifar and 1000 for imagenet.

    A channel's saliency is s = relu(fc(mean x)), and kept channels are multiplied by it (boosting).
    Which channels win depends on the image, how many does not: floor, clean cost and ceiling are
    the same number. The original keeps at most k, fewer where fewer saliencies are positive; here
    always k are kept and computed, ranked by the value before the ReLU, the first of equals. Unit:
    an output channel of a convolution inside a block; its margin is its value's distance from the
    middle between the k-th and the (k+1)-th largest.

    Source: Gao et al., Dynamic Channel Pruning: Feature Boosting and Suppression, ICLR 2019,
    k-winners-take-all.
    """

    follows = "Gao et al., Dynamic Channel Pruning: Feature Boosting and Suppression, ICLR 2019"
    unit = "an output channel of a 3x3 convolution inside a block; as many run for every image"
    skipped = (
        "the channels that do not win, as outputs of each convolution and as inputs of the second "
        "one of a block"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "imagenet-18": {"depth": 18, "layout": "imagenet"}
    }

    def __init__(
        self,
        *,
        depth: int = 20,
        layout: Literal["cifar", "imagenet"] = "cifar",
        density: float = 0.6,
        num_classes: int | Literal["auto"] = "auto",
    ) -> None:
        if not 0 < density <= 1:
            raise PlanError(f"density = {density}: a share of the channels, above 0 and at most 1")
        self.density = density
        super().__init__(layout, depth, num_classes)
        self.units = self.table([0.0] * len(self.convolutions), -math.inf, math.inf)

    def winners(self, channels: int) -> int:
        """k = ceil(d C)."""
        return math.ceil(round(self.density * channels, 9))

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Any k channels of each convolution cost the same: the first k, twice."""
        first = torch.cat(
            [torch.arange(one.outputs) < self.winners(one.outputs) for one in self.convolutions]
        )[None]
        return first, first.clone()

    def branch_for(self, convolution: Convolution) -> nn.Linear:
        """One linear layer."""
        return nn.Linear(convolution.inputs, convolution.outputs)

    def start_branch(self, branch: nn.Module) -> None:
        """Biases of 1 beside small weights, so that every channel starts near saliency 1 and their
        product stays finite."""
        assert isinstance(branch, nn.Linear)
        nn.init.ones_(branch.bias)

    def saliency(self, value: Tensor) -> Tensor:
        """relu(value)."""
        return value.relu()

    def keep(self, index: int, value: Tensor) -> Tensor:
        """The k largest values, the first of equals."""
        order = value.argsort(dim=1, descending=True, stable=True)
        kept = torch.zeros_like(value, dtype=torch.bool)
        return kept.scatter(1, order[:, : self.winners(value.shape[1])], True)

    def margins(self, seen: Sequence[Gated]) -> tuple[Tensor, Tensor]:
        """The distance of each value from the middle between the last winner and the first loser,
        twice."""
        found = torch.cat([one.value - self._middle(one.value) for one in seen], 1)
        return found, found

    def _middle(self, value: Tensor) -> Tensor:
        """(N, 1); where all channels win, a little under the last of them."""
        ranked = value.sort(1, descending=True).values
        k = self.winners(value.shape[1])
        last = ranked[:, k - 1 : k]
        return (last + ranked[:, k : k + 1]) / 2 if k < value.shape[1] else last - 1
