"""DynConv: a residual network whose blocks run at the positions that their masks ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.api import Evaluation, Output, Units
from targets.dynconv.blocks import residual_at, shape_of
from targets.dynconv.gates import Mask, MaskUnit, unit_table
from targets.dynconv.official import translate
from targets.pieces.counting import macs_of, picks_rows, require_one
from targets.pieces.gate_threshold import log_odds_of, require_gate_threshold
from targets.pieces.positions import Positions, dilate, read_alone
from targets.pieces.rows import on_rows
from targets.resnet.backbone import Backbone
from targets.resnet.blocks import BasicBlock, Bottleneck

START = 2.0
"""Bias of the logits at the start, so that nearly every position runs before it has learned not
to."""

Residual = Callable[[Mask, Tensor, Tensor, Tensor], Tensor]
"""(mask, features, logits (N, H', W'), active (N, H', W') bool) -> shortcut and residual, added."""


class DynConv(Backbone):
    """A ResNet that leaves out positions: a mask unit of each block decides at which positions of
    its output the block runs (dynamic convolutions).

    Args:
        depth: 6n+2 in the cifar layout (8, 14, 20, 26, 32 …); 18, 34, 50, 101 or 152 in the
            imagenet layout.
        masks: "spatial", or "none" for the plain network without mask units.
        cost_grad: what a decision is told to be worth (`units.cost`, `marginal_macs`, and the
            gradient of the budget in training). "released" leaves out the first convolution, as the
            gradient of the authors' cost does; "mended" has all of it. Nothing that runs, and no
            count, depends on it.
        layout: "cifar" takes 32x32 images, "imagenet" 224x224.
        num_classes: "auto" is 10 for cifar and 1000 for imagenet.
        threshold: t, the sigmoid of the logit from which on a position is active; larger ones save
            more. Trained, and published, at 0.5.

    x' = relu(shortcut(x) + m F(x)) with a mask m over the positions of the output, m(p) =
    [sigmoid(l(p)) >= t], l = conv3x3(x) + fc(mean x). Every block has one, the first too. Where
    m(p) = 1 the last convolutions run at p, and the first one at all that the 3x3 convolution
    behind it reads: at the neighbors in a basic block, in a bottleneck with a stride at positions
    of the larger map. So the cost is no sum over the positions. Mask units, projections, stem and
    head always run.

    The gate value is the logit, its threshold log(t / (1 - t)). As released, masks pass no gradient
    in evaluation; with straight-through masks d m / d l is sigmoid'(l), as in training.

    The half of the cost without a gradient: the authors dilate a mask by comparing sums with 0.5,
    which is constant, so their cost has a gradient at the last convolutions alone. Mended, the
    gradient at a position is what turning it would move: its own work, and that of the first
    convolution at the positions which it alone reads. `units.cost` weighs a position as if it were
    the only one: its own work and one position of the first convolution ("mended"), or its own work
    alone ("released").

    Source: Verelst and Tuytelaars, Dynamic Convolutions: Exploiting Spatial Sparsity for Faster
    Inference, CVPR 2020, sections 3.1 and 3.2.
    """

    follows = (
        "Verelst and Tuytelaars, Dynamic Convolutions: Exploiting Spatial Sparsity for Faster "
        "Inference, CVPR 2020"
    )
    unit = "a residual block at one position of its output"
    skipped = (
        "positions outside of the mask: the last convolutions at them, the first one where no "
        "position in reach is active, whole blocks where none is"
    )
    forks = True
    admits = True
    unkeyed_defaults: ClassVar[tuple[str, ...]] = ("threshold",)
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {"threshold": (0, 1)}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "32": {"depth": 32},
        "32-released": {"depth": 32, "cost_grad": "released"},
        "imagenet-50": {"depth": 50, "layout": "imagenet"},
        "imagenet-101": {"depth": 101, "layout": "imagenet"},
    }

    def __init__(
        self,
        *,
        depth: int = 20,
        masks: Literal["spatial", "none"] = "spatial",
        cost_grad: Literal["mended", "released"] = "mended",
        layout: Literal["cifar", "imagenet"] = "cifar",
        num_classes: int | Literal["auto"] = "auto",
        threshold: float = 0.5,
    ) -> None:
        super().__init__(layout, depth, num_classes)
        self.least = log_odds_of(require_gate_threshold(threshold))
        self.evaluation = Evaluation(mask_grad="none")
        self.cost_grad = cost_grad
        self.masks = self._build_masks() if masks == "spatial" else ()
        self.initialize()
        for module in self.modules():
            if isinstance(module, MaskUnit):
                module.start(START)
        with torch.device("cpu"):
            self.units = (
                unit_table(self.masks, [self._worth(mask) for mask in self.masks], self.least)
                if self.masks
                else Units.gated([], [], [])
            )
        self._always = self.outer_macs() + (
            sum(macs_of(self.get_submodule(m.place.gate), m.place.inputs) for m in self.masks)
            if self.masks
            else sum(self.block_macs())
        )

    @classmethod
    def from_official(cls, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """This class's state from a checkpoint of the authors' classification code, with or without
        mask units.

        Raises:
            WeightsError: listing every missing, unexpected or misshapen entry.
        """
        return translate(state, cls)

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate N images (N, 3, H, W) in [0,1]; maps are computed whole."""
        through = self.evaluation.mask_grad == "ste"
        return self.walk(images, decisions, straight_through=through)

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image (1, 3, H, W) at active positions only."""
        require_one(image)
        return self._walk(image, decisions, None, self._residual_at)

    def walk(
        self,
        images: Tensor,
        decisions: Tensor | None = None,
        *,
        noise: Callable[[Tensor], Tensor] | None = None,
        straight_through: bool,
    ) -> Output:
        """Evaluate N images block by block.

        Args:
            images: (N, 3, H, W) in [0,1].
            decisions: (N, U) bool forces exactly those positions.
            noise: what is added to the logits (N, H', W') of a mask; the recipe brings it.
            straight_through: let the gradient of a mask be that of its logit's sigmoid.
        """

        def residual(mask: Mask, x: Tensor, logit: Tensor, active: Tensor) -> Tensor:
            passed = logit.sigmoid() if straight_through and logit.requires_grad else None
            return self._residual_whole(mask, x, active, passed)

        return self._walk(images, decisions, noise, residual)

    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64: what always runs, and of each block its first convolution at all positions
        that are read and the others at active ones."""
        total = torch.full(
            (len(decisions),), self._always, dtype=torch.int64, device=decisions.device
        )
        for mask in self.masks:
            total += self.block_count(mask, mask.maps(decisions))
        return total

    def marginal_macs(self, decisions: Tensor) -> Tensor:
        """(N, U) int64: a position's own work, and that of the first convolution at the positions
        which it alone reads; without the latter where `cost_grad` is "released"."""
        if self.cost_grad == "released" or not self.masks:
            return super().marginal_macs(decisions)
        found = []
        for mask in self.masks:
            alone = read_alone(mask.maps(decisions), mask.spread)
            found.append((mask.active + mask.around * alone).flatten(1))
        return torch.cat(found, 1)

    @staticmethod
    def block_count(mask: Mask, active: Tensor) -> Tensor:
        """(N,) int64 MACs of a block's convolutions at `active` (N, H', W') bool."""
        around = dilate(active, mask.spread).sum((1, 2))
        return mask.around * around + mask.active * active.sum((1, 2))

    def _build_masks(self) -> tuple[Mask, ...]:
        masks, first = [], 0
        for place in self.places:
            stride, spread, around, active = shape_of(self.get_submodule(place.layer))
            self.add_module(place.gate, MaskUnit(place.inputs[0], stride))
            masks.append(Mask(place, place.outputs[1], stride, spread, around, active, first))
            first = masks[-1].rows.stop
        return tuple(masks)

    def _worth(self, mask: Mask) -> int:
        return mask.active + (mask.around if self.cost_grad == "mended" else 0)

    def _walk(
        self,
        images: Tensor,
        decisions: Tensor | None,
        noise: Callable[[Tensor], Tensor] | None,
        residual: Residual,
    ) -> Output:
        x = self.stem(images)
        if not self.masks:
            for place in self.places:
                x = self.get_submodule(place.layer)(x, self.shortcut(place, x))
            nothing = x.new_zeros(len(x), 0)
            return Output(self.head(x), nothing, nothing, nothing.to(torch.bool))
        logits, taken = [], []
        for mask in self.masks:
            x, seen = self.fork(x, mask.first)
            logit = self._read_mask(mask, seen)
            if noise is not None:
                logit = logit + noise(logit)
            active = self._decide(mask, logit, decisions)
            x = residual(mask, x, logit, active).relu()
            logits.append(logit.flatten(1))
            taken.append(active.flatten(1))
        margins = torch.cat(logits, 1) - self.least
        return Output(self.head(x), margins, margins, torch.cat(taken, 1))

    def _decide(self, mask: Mask, logit: Tensor, decisions: Tensor | None) -> Tensor:
        """(N, H', W') bool where the block runs."""
        if decisions is not None:
            return mask.maps(decisions.to(logit.device))
        margin = logit.detach().flatten(1) - self.least
        return self.admit(mask.first, margin, margin >= 0).view_as(logit)

    def _read_mask(self, mask: Mask, x: Tensor) -> Tensor:
        """(N, H', W') logits; always in float32 or better, autocast or not."""
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self._read_mask(mask, x.float())
        logit: Tensor = self.get_submodule(mask.place.gate)(x)
        return logit

    def _residual_whole(
        self, mask: Mask, x: Tensor, active: Tensor, passed: Tensor | None
    ) -> Tensor:
        """shortcut(x) + m F(x), of whole maps; images without an active position are left out.

        Args:
            mask: of the block.
            x: (N, C, H, W) features in front of it.
            active: (N, H', W') bool, m.
            passed: (N, H', W') whose gradient the mask passes on; None for a constant mask.
        """
        block, shortcut = self.get_submodule(mask.place.layer), self.shortcut(mask.place, x)
        if passed is not None:
            soft = active.to(passed.dtype) + (passed - passed.detach())
            return shortcut + soft[:, None].to(x.dtype) * _residual(block, x)
        # in training the statistics of batch normalization are those of the whole batch
        if block.training or not picks_rows(x):
            return _masked(block, x, shortcut, active)
        wanted = active.flatten(1).any(1)
        if bool(wanted.all()):
            return _masked(block, x, shortcut, active)
        rows = wanted.nonzero().squeeze(1)
        if not len(rows):
            return shortcut
        return on_rows(
            lambda inputs, by: _masked(block, inputs, by, active[rows]), x, shortcut, rows
        )

    def _residual_at(self, mask: Mask, x: Tensor, logit: Tensor, active: Tensor) -> Tensor:
        """The same of one image, computed where it is active."""
        block, shortcut = self.get_submodule(mask.place.layer), self.shortcut(mask.place, x)
        where = Positions.of(active[0])
        if not len(where):
            return shortcut
        if where.everywhere:
            return shortcut + _residual(block, x)
        flat = shortcut[0].flatten(1)
        return flat.index_add(1, where.index, residual_at(block, x, where)).view_as(shortcut)


def _residual(block: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(block, BasicBlock | Bottleneck)
    return block.residual(x)


def _masked(block: nn.Module, x: Tensor, shortcut: Tensor, active: Tensor) -> Tensor:
    return shortcut + torch.where(active[:, None], _residual(block, x), 0.0)
