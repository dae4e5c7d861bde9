"""SkipNet: a residual network in which a gate behind every block decides whether the next block
runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.api import Evaluation, Output, Units
from bench.errors import PlanError
from targets.pieces.counting import macs_of, picks_rows, require_one
from targets.pieces.gate_threshold import log_odds_of, require_gate_threshold
from targets.pieces.masks import mix_rows
from targets.resnet.backbone import Backbone
from targets.resnet.blocks import Place
from targets.skipnet.gates import (
    Embedding,
    FeedForwardGateI,
    FeedForwardGateII,
    RecurrentControl,
    State,
)
from targets.skipnet.official import translate

Choose = Callable[[int, Tensor], Tensor]
"""(unit, gate values (N,)) -> (N,) bool, which images run the unit."""


class SkipNet(Backbone):
    """A ResNet that skips whole blocks: a gate behind each block decides, image by image, whether
    the next one runs.

    Args:
        depth: 6n+2 in the cifar layout (20, 38, 74, 110, 152 …); 18, 34, 50, 101 or 152 in the
            imagenet layout.
        gate: "rnn" is one LSTM shared by all blocks (0.02 % of the network); "ff1" and "ff2" are
            small convolutional networks of each block's own (12 to 15 %), in the cifar layout only.
        form: how it was trained: "sp" (supervised; straight-through masks) or "hrl" (policy
            gradient; masks without a gradient). The forward values are the same for the same
            weights; only the default of `mask_grad` differs.
        threshold: t, the gate value above which a block runs; larger ones save more. Trained, and
            published, at 0.5.
        layout: "cifar" takes 32x32 images, "imagenet" 224x224.
        num_classes: "auto" is 10 for cifar and 1000 for imagenet.

    Unit u guards block u+1, counted over all groups; the first block always runs, and so do the
    projections of the shortcuts: x' = m block(x) + (1 - m) shortcut(x), where m = [G > t] and G =
    sigmoid(logit). The gate behind the last block decides nothing: its weights are kept so that
    official checkpoints load, but it never runs.

    Each projection runs once; the released code runs it twice where the block runs. The recurrent
    gate's state lives in the call, not in the module.

    Source: Wang et al., SkipNet: Learning Dynamic Routing in Convolutional Networks, ECCV 2018,
    equation 1.
    """

    follows = "Wang et al., SkipNet: Learning Dynamic Routing in Convolutional Networks, ECCV 2018"
    unit = "a residual block behind the first one, for the whole image"
    skipped = "the convolutions of closed blocks; gates and the projections of shortcuts always run"
    forks = True
    admits = True
    unkeyed_defaults: ClassVar[tuple[str, ...]] = ("threshold",)
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {"threshold": (0, 1)}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "38": {"depth": 38},
        "74": {"depth": 74},
        "110": {"depth": 110},
        "38-ff": {"depth": 38, "gate": "ff1"},
        "74-ff": {"depth": 74, "gate": "ff1"},
        "110-ff": {"depth": 110, "gate": "ff2"},
        "110-hrl": {"depth": 110, "form": "hrl"},
        "imagenet-50": {"depth": 50, "layout": "imagenet"},
        "imagenet-101": {"depth": 101, "layout": "imagenet"},
        "imagenet-101-hrl": {"depth": 101, "layout": "imagenet", "form": "hrl"},
    }

    def __init__(
        self,
        *,
        depth: int = 20,
        gate: Literal["rnn", "ff1", "ff2"] = "rnn",
        form: Literal["sp", "hrl"] = "sp",
        layout: Literal["cifar", "imagenet"] = "cifar",
        num_classes: int | Literal["auto"] = "auto",
        threshold: float = 0.5,
    ) -> None:
        super().__init__(layout, depth, num_classes)
        self.threshold = require_gate_threshold(threshold)
        if layout == "imagenet" and gate != "rnn":
            raise PlanError(
                f'gate = "{gate}": the imagenet layout has the recurrent gate only; did you mean '
                'gate = "rnn"?'
            )
        self.evaluation = Evaluation(mask_grad="ste" if form == "sp" else "none")
        self.control = RecurrentControl() if gate == "rnn" else None
        kinds: dict[str, Callable[[int], nn.Module]] = {
            "rnn": Embedding,
            "ff1": FeedForwardGateI,
            "ff2": FeedForwardGateII,
        }
        for place in self.places:
            self.add_module(place.gate, kinds[gate](place.outputs[0]))
        self.initialize()
        first, *rest = self.block_macs()
        with torch.device("cpu"):
            names = [place.name for place in self.places[1:]]
            self.units = Units.gated(names, names, rest, threshold=threshold)
        self._always = self.outer_macs() + first + self._gate_macs()

    @classmethod
    def from_official(cls, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """This class's state from a checkpoint of the authors' code (any gate, form, depth and data
        set).

        Raises:
            WeightsError: listing every missing, unexpected or misshapen entry.
        """
        return translate(state, cls)

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate N images (N, 3, H, W) in [0,1]; blocks run only for the images that want them.

        With straight-through masks that need a gradient, closed blocks are evaluated too (without a
        graph of their own), because d m / d G multiplies block(x) - shortcut(x).
        """
        return self.walk(
            images,
            self._rule(decisions),
            straight_through=self.evaluation.mask_grad == "ste",
        )

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image (1, 3, H, W); a closed block is not touched."""
        require_one(image)
        return self.walk(image, self._rule(decisions), straight_through=False, leaves_out=True)

    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64: what always runs, all gates that act, and the blocks decided for."""
        cost = self.units.column("cost", decisions.device)
        return self._always + (decisions.to(torch.int64) * cost).sum(1)

    def walk(
        self,
        images: Tensor,
        choose: Choose,
        *,
        straight_through: bool,
        leaves_out: bool | None = None,
    ) -> Output:
        """Evaluate N images block by block, asking `choose` at every gate; the HRL recipe samples
        its actions here.

        Args:
            images: (N, 3, H, W) in [0,1].
            choose: called once a unit, in order.
            straight_through: let the gradient of a mask be that of its gate value.
            leaves_out: whether closed blocks are left out, for which the host waits at every gate,
                or masked. None is what is faster on the device of the images.
        """
        if leaves_out is None:
            leaves_out = picks_rows(images)
        if self.training:  # the statistics of batch normalization are those of the whole batch
            leaves_out = False
        x = self.stem(images)
        x = self.get_submodule(self.places[0].layer)(x, self.shortcut(self.places[0], x))
        state: State | None = None
        logits, values, taken = [], [], []
        for unit, (place, guarded) in enumerate(pairwise(self.places)):
            x, seen = self.fork(x, unit)
            logit, state = self._read_gate(place, seen, state)
            value = logit.sigmoid()
            run = choose(unit, value)
            passed = value if straight_through and value.requires_grad else None
            block, shortcut = self.get_submodule(guarded.layer), self.shortcut(guarded, x)
            x = mix_rows(block, x, shortcut, run, passed, leaves_out)
            logits.append(logit)
            values.append(value)
            taken.append(run)
        return Output(
            self.head(x),
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

    def _read_gate(
        self, place: Place, x: Tensor, state: State | None
    ) -> tuple[Tensor, State | None]:
        """((N,) logit, next state) of the gate behind `place`; always in float32 or better,
        autocast or not."""
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self._read_gate(place, x.float(), state)
        gate = self.get_submodule(place.gate)
        return (gate(x), None) if self.control is None else self.control(gate(x), state)

    def _gate_macs(self) -> int:
        """MACs of all gates that act."""
        shapes = Counter(place.outputs for place in self.places[:-1])
        one_of = {place.outputs: self.get_submodule(place.gate) for place in self.places}
        gates = sum(count * macs_of(one_of[shape], shape) for shape, count in shapes.items())
        if self.control is None:
            return gates
        return gates + (len(self.places) - 1) * macs_of(self.control, (self.control.embed_dim,))
