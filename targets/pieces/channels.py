"""What networks with channel gates share: residual blocks whose convolutions run for some of their
output channels only.

Every convolution inside a block is gated. A branch reads the globally averaged input of the
convolution and gives each of its output channels a saliency; the subclass's rule keeps some
channels, and a kept channel is multiplied by its saliency after batch normalization (and, for the
first convolution, after the ReLU), a closed one is zero:

    y = s1 [k1] relu(bn1(conv1(x)));    x' = relu(shortcut(x) + s2 [k2] bn2(conv2(y))).

So the first convolution costs its kept outputs times all inputs, the second its kept outputs times
the kept outputs of the first; stem, projections, head and the branches themselves always run.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import Output, Units
from bench.errors import PlanError
from targets.pieces.counting import macs_of, require_one
from targets.resnet.backbone import Backbone
from targets.resnet.blocks import BasicBlock, Place

Keep = Callable[[int, Tensor], Tensor]
"""(convolution, values of its branch (N, C)) -> (N, C) bool, the channels to keep."""


@dataclass(frozen=True)
class Gated:
    """What the branch of one convolution saw and said about N images.

    Attributes:
        pooled: (N, C_in), what it read.
        value: (N, C), before any squashing.
        saliency: (N, C), what kept channels are multiplied by.
        kept: (N, C) bool.
    """

    pooled: Tensor
    value: Tensor
    saliency: Tensor
    kept: Tensor


@dataclass(frozen=True)
class Convolution:
    """One gated convolution: its name, the names of its modules, its size, and its place in the
    unit table."""

    name: str
    layer: str
    branch: str
    which: Literal[1, 2]
    inputs: int
    outputs: int
    positions: int
    first: int

    @property
    def units(self) -> slice:
        """Its columns among all units."""
        return slice(self.first, self.first + self.outputs)


class ChannelGated(Backbone):
    """A residual network of basic blocks whose convolutions leave out channels; what is kept is up
    to the subclass."""

    forks = True
    admits = True

    def __init__(
        self, layout: Literal["cifar", "imagenet"], depth: int, num_classes: int | Literal["auto"]
    ) -> None:
        super().__init__(layout, depth, num_classes)
        if not isinstance(self.get_submodule(self.places[0].layer), BasicBlock):
            raise PlanError(
                f"depth = {depth}: channel gates stand on basic blocks, depths 18 and 34 of "
                "imagenet; did you mean 34?"
            )
        self.convolutions = self._list_convolutions()
        for convolution in self.convolutions:
            self.add_module(convolution.branch, self.branch_for(convolution))
        self.initialize()
        for convolution in self.convolutions:
            self.start_branch(self.get_submodule(convolution.branch))
        self._always = self.outer_macs() + sum(
            macs_of(self.get_submodule(one.branch), (one.inputs,)) for one in self.convolutions
        )

    @abstractmethod
    def branch_for(self, convolution: Convolution) -> nn.Module:
        """The branch of a convolution: (N, C_in) pooled input -> (N, C) values."""

    @abstractmethod
    def start_branch(self, branch: nn.Module) -> None:
        """Initialise a branch."""

    @abstractmethod
    def saliency(self, value: Tensor) -> Tensor:
        """(N, C) what channels are multiplied by, from the values of their branch."""

    @abstractmethod
    def keep(self, index: int, value: Tensor) -> Tensor:
        """(N, C) bool, the channels that convolution `index` keeps by the network's own rule."""

    @abstractmethod
    def margins(self, seen: Sequence[Gated]) -> tuple[Tensor, Tensor]:
        """(N, U) margins and logit margins."""

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate N images (N, 3, H, W) in [0,1]; closed channels are computed and multiplied by
        zero."""
        logits, seen = self.walk(images, self._rule(decisions))
        return self._output(logits, seen)

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image (1, 3, H, W) with convolutions sliced to the kept channels."""
        require_one(image)
        keep, seen = self._rule(decisions), []
        x = self.stem(image)
        for index, place in enumerate(self.places):
            shortcut = self.shortcut(place, x)
            block = self.get_submodule(place.layer)
            assert isinstance(block, BasicBlock)
            inner, first = self._sliced(2 * index, block.conv1, block.bn1, x, None, keep)
            hidden = _spread(inner.relu(), first, x)
            outer, second = self._sliced(2 * index + 1, block.conv2, block.bn2, hidden, first, keep)
            x = (shortcut + _spread(outer, second, shortcut)).relu()
            seen += [first, second]
        return self._output(self.head(x), seen)

    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64: what always runs, and kept inputs times kept outputs of each convolution."""
        total = torch.full(
            (len(decisions),), self._always, dtype=torch.int64, device=decisions.device
        )
        inputs = None
        for one in self.convolutions:
            outputs = decisions[:, one.units].sum(1)
            inner = inputs if one.which == 2 else one.inputs
            assert inner is not None
            total += 9 * one.positions * outputs * inner
            inputs = outputs
        return total

    def marginal_macs(self, decisions: Tensor) -> Tensor:
        """(N, U) int64: an output of the first convolution of a block costs its inputs and the kept
        outputs of the second; one of the second costs the kept outputs of the first."""
        found = []
        for first, second in zip(self.convolutions[::2], self.convolutions[1::2], strict=True):
            inner = decisions[:, first.units].sum(1, keepdim=True)
            outer = decisions[:, second.units].sum(1, keepdim=True)
            one = 9 * first.positions * first.inputs + 9 * second.positions * outer
            found += [
                one.expand(-1, first.outputs),
                (9 * second.positions * inner).expand(-1, second.outputs),
            ]
        return torch.cat(found, 1)

    def walk(self, images: Tensor, keep: Keep) -> tuple[Tensor, list[Gated]]:
        """((N, K) logits, what each branch said), asking `keep` at every convolution; the recipes
        train here."""
        x, seen = self.stem(images), []
        for index, place in enumerate(self.places):
            block = self.get_submodule(place.layer)
            assert isinstance(block, BasicBlock)
            x, read = self.fork(x, self.convolutions[2 * index].first)
            shortcut = self.shortcut(place, x)
            first = self._look(2 * index, read.mean((2, 3)), keep)
            x = block.bn1(block.conv1(x)).relu_() * self._scale(first).to(x.dtype)
            x, read = self.fork(x, self.convolutions[2 * index + 1].first)
            second = self._look(2 * index + 1, read.mean((2, 3)), keep)
            y = block.bn2(block.conv2(x)) * self._scale(second).to(x.dtype)
            x = y.add_(shortcut).relu_()
            seen += [first, second]
        return self.head(x), seen

    def table(self, threshold: Sequence[float], low: float, high: float) -> Units:
        """The units: one row a channel of a gated convolution, wanted at a margin of 0 or more.

        Args:
            threshold: of each convolution.
            low, high: bounds of the gate value.
        """
        with torch.device("cpu"):
            counts = torch.tensor([one.outputs for one in self.convolutions])
            costs = torch.tensor([9 * one.positions * one.inputs for one in self.convolutions])
            total = int(counts.sum())
            thresholds = torch.tensor(threshold, dtype=torch.float64).repeat_interleave(counts)
            return Units(
                name=tuple(
                    f"{one.name}.channel{channel}"
                    for one in self.convolutions
                    for channel in range(one.outputs)
                ),
                kind=("channel",) * total,
                owner=tuple(one.name for one in self.convolutions for _ in range(one.outputs)),
                shape=tuple(
                    (one.outputs,) for one in self.convolutions for _ in range(one.outputs)
                ),
                cost=costs.repeat_interleave(counts),
                threshold=thresholds,
                low=torch.full((total,), low, dtype=torch.float64),
                high=torch.full((total,), high, dtype=torch.float64),
                strict=torch.zeros(total, dtype=torch.bool),
                after=torch.full((total,), -1, dtype=torch.int64),
            )

    def _list_convolutions(self) -> tuple[Convolution, ...]:
        found: list[Convolution] = []
        first = 0
        for place in self.places:
            for which in (1, 2):
                inputs, outputs, positions = _sizes(place, which)
                name, branch = f"{place.name}.conv{which}", f"{place.layer}_branch{which}"
                found.append(
                    Convolution(
                        name,
                        place.layer,
                        branch,
                        1 if which == 1 else 2,
                        inputs,
                        outputs,
                        positions,
                        first,
                    )
                )
                first += outputs
        return tuple(found)

    def _rule(self, decisions: Tensor | None) -> Keep:
        if decisions is None:
            return lambda index, value: self.admit(
                self.convolutions[index].first, value, self.keep(index, value)
            )
        forced = decisions
        return lambda index, value: forced[:, self.convolutions[index].units].to(value.device)

    def _look(self, index: int, pooled: Tensor, keep: Keep) -> Gated:
        """What the branch of a convolution says; always in float32 or better, autocast or not."""
        if torch.is_autocast_enabled(pooled.device.type):
            with torch.autocast(pooled.device.type, enabled=False):
                return self._look(index, pooled.float(), keep)
        value = self.get_submodule(self.convolutions[index].branch)(pooled)
        return Gated(pooled, value, self.saliency(value), keep(index, value.detach()))

    def _scale(self, seen: Gated) -> Tensor:
        """(N, C, 1, 1): the saliency of kept channels and 0; straight-through, closed channels pass
        the saliency's gradient on."""
        closed = (
            seen.saliency - seen.saliency.detach()
            if self.evaluation.mask_grad == "ste"
            else torch.zeros_like(seen.saliency)
        )
        return torch.where(seen.kept, seen.saliency, closed)[:, :, None, None]

    def _sliced(
        self,
        index: int,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d,
        x: Tensor,
        inputs: Gated | None,
        keep: Keep,
    ) -> tuple[Tensor, Gated]:
        """((1, kept, H', W') normalized outputs of the kept channels, what the branch said)."""
        seen = self._look(index, x.mean((2, 3)), keep)
        kept = seen.kept[0].nonzero().squeeze(1)
        if not len(kept):
            return x.new_zeros(1, 0, *(size // conv.stride[0] for size in x.shape[2:])), seen
        weight = conv.weight[kept]
        if inputs is not None:
            inner = inputs.kept[0].nonzero().squeeze(1)
            x, weight = x[:, inner], weight[:, inner]
        y = (
            F.conv2d(x, weight, None, conv.stride, conv.padding)
            if weight.shape[1]
            else x.new_zeros(1, len(kept), *x.shape[2:])
        )
        assert norm.running_mean is not None
        assert norm.running_var is not None
        y = F.batch_norm(
            y,
            norm.running_mean[kept],
            norm.running_var[kept],
            norm.weight[kept],
            norm.bias[kept],
            eps=norm.eps,
        )
        return y, seen

    def _output(self, logits: Tensor, seen: Sequence[Gated]) -> Output:
        margins, logit_margins = self.margins(seen)
        return Output(logits, margins, logit_margins, torch.cat([one.kept for one in seen], 1))


def _spread(y: Tensor, seen: Gated, like: Tensor) -> Tensor:
    """(1, C, H', W'): kept channels multiplied by their saliency, zeros elsewhere."""
    kept = seen.kept[0].nonzero().squeeze(1)
    whole = like.new_zeros(1, seen.kept.shape[1], *y.shape[2:])
    return whole.index_copy(1, kept, y * seen.saliency[:, kept, None, None])


def _sizes(place: Place, which: int) -> tuple[int, int, int]:
    """(input channels, output channels, output positions) of a convolution of a block."""
    outputs, height, width = place.outputs
    return (place.inputs[0] if which == 1 else outputs), outputs, height * width
