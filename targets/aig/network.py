"""ConvNet-AIG: a residual network in which every block has a gate that looks at its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.api import Evaluation, Output, Units
from bench.errors import PlanError
from targets.aig.gates import RelevanceGate, seeded_noise
from targets.aig.official import translate
from targets.pieces.counting import macs_of, picks_rows, require_one
from targets.pieces.gate_threshold import log_odds_of, require_gate_threshold
from targets.pieces.masks import mix_rows
from targets.resnet.backbone import Backbone
from targets.resnet.blocks import BasicBlock, Bottleneck

Choose = Callable[[int, Tensor], Tensor]
"""(unit, gate values (N,)) -> (N,) bool, which images run the unit."""


class AIG(Backbone):
    """A ResNet that skips blocks: a gate of each block's own looks at the block's input and decides
    whether it runs (ConvNet-AIG, adaptive inference graphs).

    Args:
        depth: 6n+2 in the cifar layout (20, 38, 74, 110, 152 …); 18, 34, 50, 101 or 152 in the
            imagenet layout.
        gating: "argmax" decides by the larger logit; "sample" as released, with fresh Gumbel noise
            on both logits in every evaluation; "none" has no gates and is the plain network.
        draws: over how many draws the cost of the sampled form is averaged when it is scored; the
            other forms take no draws.
        layout: "cifar" takes 32x32 images, "imagenet" 224x224.
        num_classes: "auto" is 10 for cifar and 1000 for imagenet.
        threshold: t, the gate value above which a block runs; larger ones save more. Trained, and
            published, at 0.5.

    Every block has a gate, the first of a stage too, and a shortcut that always runs: x' =
    relu(shortcut(x) + m F(x)), m = [G > t]. The gate is average, 16 units, batch normalization,
    ReLU and two logits; G = sigmoid(l_1 - l_0), and equal logits skip. Sampled, G = sigmoid(l_1 +
    g_1 - l_0 - g_0) with g = -log(-log u), so that a block runs with probability sigmoid(l_1 -
    l_0). The draws come from the seeds of the evaluation alone.

    The released code samples in evaluation too: its accuracy and its cost are those of a random
    network. Its masks are straight-through in training and evaluation, which is the default here.
    No released weights are known.

    Source: Veit and Belongie, Convolutional Networks with Adaptive Inference Graphs, ECCV 2018,
    equations 2 to 5.
    """

    follows = "Veit and Belongie, Convolutional Networks with Adaptive Inference Graphs, ECCV 2018"
    unit = "a residual block, for the whole image"
    skipped = "the convolutions of closed blocks; gates and the projections of shortcuts always run"
    forks = True
    admits = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "110": {"depth": 110},
        "110-sampled": {"depth": 110, "gating": "sample"},
        "imagenet-50": {"depth": 50, "layout": "imagenet"},
        "imagenet-101": {"depth": 101, "layout": "imagenet"},
        "imagenet-152": {"depth": 152, "layout": "imagenet"},
    }
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "draws": (2, 1000),
        "threshold": (0, 1),
    }
    unkeyed_defaults: ClassVar[tuple[str, ...]] = ("threshold",)

    def __init__(
        self,
        *,
        depth: int = 20,
        gating: Literal["argmax", "sample", "none"] = "argmax",
        draws: int = 20,
        layout: Literal["cifar", "imagenet"] = "cifar",
        num_classes: int | Literal["auto"] = "auto",
        threshold: float = 0.5,
    ) -> None:
        super().__init__(layout, depth, num_classes)
        self.threshold = require_gate_threshold(threshold)
        if draws < 2:
            raise PlanError(f"draws = {draws}: at least 2, since a sampled network is random")
        self.evaluation = Evaluation(mask_grad="ste")
        self.gating = gating
        self.draws = draws if gating == "sample" else 1
        self.gated = self.places if gating != "none" else ()
        for place in self.gated:
            self.add_module(place.gate, RelevanceGate(place.inputs[0]))
        self.initialize()
        for module in self.modules():
            if isinstance(module, RelevanceGate):
                module.start()
        blocks = self.block_macs()
        with torch.device("cpu"):
            names = [place.name for place in self.gated]
            self.units = Units.gated(names, names, blocks[: len(names)], threshold=threshold)
        self._always = self.outer_macs() + self._gate_macs() + sum(blocks[len(names) :])

    @classmethod
    def from_official(cls, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """This class's state from a checkpoint of the authors' code (any depth and data set).

        Raises:
            WeightsError: listing every missing, unexpected or misshapen entry.
        """
        return translate(state, cls)

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate N images (N, 3, H, W) in [0,1]; blocks run only for the images that want them.

        With straight-through masks that need a gradient, closed blocks are evaluated too (without a
        graph of their own), because d m / d G multiplies F(x).
        """
        return self.walk(
            images,
            self._rule(decisions),
            noise=self._noise(images),
            straight_through=self.evaluation.mask_grad == "ste",
        )

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image (1, 3, H, W); a closed block is not touched."""
        require_one(image)
        return self.walk(
            image,
            self._rule(decisions),
            noise=self._noise(image),
            straight_through=False,
            leaves_out=True,
        )

    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64: what always runs, all gates, and the blocks decided for."""
        cost = self.units.column("cost", decisions.device)
        return self._always + (decisions.to(torch.int64) * cost).sum(1)

    def walk(
        self,
        images: Tensor,
        choose: Choose,
        *,
        noise: Tensor | None = None,
        straight_through: bool,
        leaves_out: bool | None = None,
    ) -> Output:
        """Evaluate N images block by block, asking `choose` at every gate.

        Args:
            images: (N, 3, H, W) in [0,1].
            choose: called once a unit, in order.
            noise: (N, U) added to the differences of the logits; the recipe brings its own.
            straight_through: let the gradient of a mask be that of its gate value.
            leaves_out: whether closed blocks are left out, for which the host waits at every gate,
                or masked. None is what is faster on the device of the images.
        """
        if leaves_out is None:
            leaves_out = picks_rows(images)
        if self.training:  # the statistics of batch normalization are those of the whole batch
            leaves_out = False
        x = self.stem(images)
        logits, values, taken = [], [], []
        for unit, place in enumerate(self.places):
            layer = self.get_submodule(place.layer)
            if not self.gated:
                x = layer(x, self.shortcut(place, x))
                continue
            x, seen = self.fork(x, unit)
            logit = self._read_gate(place.gate, seen)
            if noise is not None:
                logit = logit + noise[:, unit]
            value = logit.sigmoid()
            run = choose(unit, value)
            passed = value if straight_through and value.requires_grad else None
            mixed = mix_rows(
                partial(_added, layer),
                x,
                self.shortcut(place, x),
                run,
                passed,
                leaves_out,
            )
            x = mixed.relu()
            logits.append(logit)
            values.append(value)
            taken.append(run)
        answer = self.head(x)
        if not logits:
            nothing = answer.new_zeros(len(answer), 0)
            return Output(answer, nothing, nothing, nothing.to(torch.bool))
        return Output(
            answer,
            torch.stack(values, 1) - self.threshold,
            torch.stack(logits, 1) - log_odds_of(self.threshold),
            torch.stack(taken, 1),
        )

    def _rule(self, decisions: Tensor | None) -> Choose:
        if decisions is None:
            return lambda unit, value: self.admit(
                unit, value[:, None] - self.threshold, value.detach()[:, None] > self.threshold
            )[:, 0]
        forced = decisions
        return lambda unit, value: forced[:, unit].to(value.device)

    def _noise(self, images: Tensor) -> Tensor | None:
        """(N, U) from the seeds of the evaluation; None for gates that are not sampled."""
        if self.gating != "sample":
            return None
        given = self.evaluation.seeds
        seeds = [0] * len(images) if given is None else given.tolist()
        return seeded_noise(seeds, len(self.units)).to(images, non_blocking=True)

    def _read_gate(self, gate: str, x: Tensor) -> Tensor:
        """(N,) l_1 - l_0; always in float32 or better, autocast or not."""
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self._read_gate(gate, x.float())
        logit: Tensor = self.get_submodule(gate)(x)
        return logit

    def _gate_macs(self) -> int:
        """MACs of all gates."""
        known = {
            place.inputs: macs_of(self.get_submodule(place.gate), place.inputs)
            for place in self.gated
        }
        return sum(known[place.inputs] for place in self.gated)


def _added(layer: nn.Module, x: Tensor, shortcut: Tensor) -> Tensor:
    """F(x) + shortcut, in front of the ReLU."""
    assert isinstance(layer, BasicBlock | Bottleneck)
    return layer.residual(x).add_(shortcut)
