"""SACT and ACT: residual networks that stop, position by position or image by image, inside each
block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.api import Output, Target
from bench.errors import PlanError
from targets.pieces.counting import macs_of, picks_rows, require_one
from targets.pieces.folding import fold_forwards, folded
from targets.pieces.gate_threshold import require_gate_threshold
from targets.pieces.positions import Positions, dilate, read_alone
from targets.pieces.rows import on_rows
from targets.sact.blocks import Stem, Unit, build_blocks, form_for
from targets.sact.gates import Gate, list_gates, unit_table
from targets.sact.halting import Admit, HaltingRun, HaltingScore, Score, halt
from targets.sact.official import translate


class SACT(Target):
    """A pre-activation ResNet in which each position halts once its scores add up to one (adaptive
    computation time).

    Args:
        depth: 6n+2 in the cifar layout (20, 32, 56, 110 for n = 3, 5, 9, 18 units a block); 50, 101
            or 152 in imagenet.
        halting: "sact" halts position by position, "act" image by image, "none" never: the plain
            network.
        layout: "cifar" takes 32x32 images, "imagenet" 224x224.
        num_classes: "auto" is 10 for cifar and 1000 for imagenet.
        threshold: t, the sum of scores from which on a position is halted; smaller ones save more.
            Trained, and published, at 0.99.

    In each block unit n emits a score h_n in (0,1), the last one 1. A position runs unit n+1 iff
    h_1 + … + h_n < t; if N is the last unit it runs, the block's output there is sum_{n<N}
    h_n x_n + (1 - sum_{n<N} h_n) x_N. Halted positions keep their state. SACT's score is
    sigmoid(conv3x3(bn(x)) + conv1x1(bn(mean x))), ACT's sigmoid(conv1x1(bn(mean x))).

    Unit: a residual unit behind the first of its block at one position (or, for ACT, for the
    image); its margin is t less the sum so far, which stands still once the position has halted.
    Forced decisions set N, the formula stays, so forcing everything is the network that never halts
    early. Halting has no mask with a gradient of its own; `mask_grad` makes no difference.

    TensorFlow's padding, shortcuts and mean-before-normalization are kept, so the authors'
    variables load. On CIFAR the batch normalization of the halting scores carries the leaky ReLU of
    the authors' scope (read there, not run).

    Source: Figurnov et al., Spatially Adaptive Computation Time for Residual Networks, CVPR 2017,
    sections 2 and 3.
    """

    follows = (
        "Figurnov et al., Spatially Adaptive Computation Time for Residual Networks, CVPR 2017"
    )
    unit = (
        "a residual unit behind the first of its block at one position of the map (for ACT: for "
        "the whole image)"
    )
    skipped = (
        "halted positions: the last convolutions at them, the first one where no position in reach "
        "is active, whole units where none is"
    )
    forks = True
    admits = True
    unkeyed_defaults: ClassVar[tuple[str, ...]] = ("threshold",)
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {"threshold": (0, 1)}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "32": {"depth": 32},
        "110": {"depth": 110},
        "act-32": {"depth": 32, "halting": "act"},
        "imagenet-50": {"depth": 50, "layout": "imagenet"},
        "imagenet-101": {"depth": 101, "layout": "imagenet"},
        "imagenet-152": {"depth": 152, "layout": "imagenet"},
    }

    def __init__(
        self,
        *,
        depth: int = 20,
        halting: Literal["sact", "act", "none"] = "sact",
        layout: Literal["cifar", "imagenet"] = "cifar",
        num_classes: int | Literal["auto"] = "auto",
        threshold: float = 0.99,
    ) -> None:
        super().__init__()
        self.threshold = require_gate_threshold(threshold)
        self.form = form_for(layout, depth)
        self.classes = self.form.classes if num_classes == "auto" else num_classes
        if self.classes < 1:
            raise PlanError(
                f'num_classes = {self.classes}: at least 1, or "auto" for {self.form.classes}'
            )
        self.image_shape = (3, self.form.size, self.form.size)
        self.halting = halting
        self.stem, self.blocks = Stem(self.form), build_blocks(self.form)
        self.scores = nn.ModuleList(
            self._build_scores(width, count)
            for width, count in zip(self.form.widths, self.form.units, strict=True)
        )
        self.bn = self.form.norm(self.form.widths[-1])
        self.fc = nn.Linear(self.form.widths[-1], self.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.out_channels > 1:
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        sizes = self.form.sizes if halting == "sact" else [0] * len(self.scores)
        self.gates = list_gates(sizes, [len(one) for one in self.scores])  # type: ignore[arg-type]
        with torch.device("cpu"):
            costs = [self._guarded(gate) for gate in self.gates]
            self.units = unit_table(self.gates, costs, threshold)
            self._always = self._always_macs()

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This class's state from the authors' variables by name (exported as .npz), CIFAR or
        ImageNet, with or without SACT.

        Raises:
            WeightsError: listing every missing, unexpected or misshapen entry.
        """
        return translate(state, cls)

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate N images (N, 3, H, W) in [0,1]; maps are computed whole, halted positions keep
        their state."""
        logits, runs = self.walk(images, decisions)
        return self._output(logits, runs)

    def equivalent(self) -> Target:
        """This network with its normalizations folded into its convolutions."""
        made = folded(self)
        units = [unit for number in range(len(made.blocks)) for unit in made._block(number)[0]]
        scores = [score for number in range(len(made.blocks)) for score in made._block(number)[1]]
        fold_forwards((unit, "preact", "conv1") for unit in units if unit.folds_forwards)
        fold_forwards((score, "local_bn", "local_conv") for score in scores if score.spatial)
        return made.to(memory_format=torch.channels_last)

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image (1, 3, H, W) at active positions only."""
        require_one(image)
        x, runs = self.stem(image), []
        for number in range(len(self.blocks)):
            units, scores = self._block(number)
            forced, admit = self._forced(decisions, number), self._admitting(number)
            x, run = halt(
                units,
                scores,
                x,
                forced,
                self.threshold,
                self._residual_at,
                self._score_at,
                admit,
                leaves_out=True,
            )
            runs.append(run)
        return self._output(self._head(x), runs)

    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64: what always runs, and of each unit its first convolution at dilated and the
        others at active positions."""
        total = torch.full(
            (len(decisions),), self._always, dtype=torch.int64, device=decisions.device
        )
        for gate in self.gates:
            units, scores = self._block(gate.block)
            size = self.form.sizes[gate.block]
            mask = (
                decisions[:, gate.rows]
                .view(-1, max(1, gate.size), max(1, gate.size))
                .expand(-1, size, size)
            )
            active, around = mask.sum((1, 2)), dilate(mask).sum((1, 2))
            total += units[gate.unit].macs(active, around)
            if gate.unit < len(scores):
                total += scores[gate.unit].macs(active)
        return total

    def marginal_macs(self, decisions: Tensor) -> Tensor:
        """(N, U) int64: a position's own work, and that of the first convolution at the neighbors
        for which it alone asks."""
        found = []
        for gate in self.gates:
            units, scores = self._block(gate.block)
            size = self.form.sizes[gate.block]
            with torch.device("cpu"):
                one = torch.tensor([1 if gate.size else size * size])
            none = torch.zeros_like(one)
            own, around = (
                int(units[gate.unit].macs(one, none)),
                int(units[gate.unit].macs(none, one)),
            )
            start = 0
            if gate.unit < len(scores):
                own += scores[gate.unit].own_macs(int(one))
                start = int(scores[gate.unit].macs(one)) - scores[gate.unit].own_macs(int(one))
            mask = decisions[:, gate.rows]
            if not gate.size:  # the whole image decides
                found.append(torch.full_like(mask, own + around, dtype=torch.int64))
                continue
            mask = mask.view(-1, gate.size, gate.size)
            alone = read_alone(mask)
            only = mask.sum((1, 2), keepdim=True) == mask.to(torch.int64)
            found.append((own + around * alone + start * only).flatten(1))
        return torch.cat(found, 1) if found else decisions.to(torch.int64)

    def walk(
        self, images: Tensor, decisions: Tensor | None = None
    ) -> tuple[Tensor, list[HaltingRun]]:
        """((N, K) logits, how each block halted); the recipe takes the ponder cost from there."""
        x, runs = self.stem(images), []
        for number in range(len(self.blocks)):
            units, scores = self._block(number)
            forced, admit = self._forced(decisions, number), self._admitting(number)
            x, run = halt(
                units,
                scores,
                x,
                forced,
                self.threshold,
                _residual_whole,
                self._score_whole(number),
                admit,
                leaves_out=picks_rows(x),
            )
            runs.append(run)
        return self._head(x), runs

    def _block(self, number: int) -> tuple[list[Unit], list[HaltingScore]]:
        return list(self.blocks[number]), list(self.scores[number])  # type: ignore[call-overload]

    def _build_scores(self, channels: int, count: int) -> nn.ModuleList:
        """The halting scores of a block: none behind its last unit, or where nothing halts."""
        count = 0 if self.halting == "none" else count - 1
        return nn.ModuleList(
            HaltingScore(self.form, channels, spatial=self.halting == "sact") for _ in range(count)
        )

    def _forced(self, decisions: Tensor | None, number: int) -> list[Tensor] | None:
        """(N, h, w) bool of each gated unit of a block; where nothing halts, everything is forced
        on."""
        if self.halting == "none":
            return []
        if decisions is None:
            return None
        gates = [gate for gate in self.gates if gate.block == number]
        return [
            decisions[:, gate.rows].view(len(decisions), max(1, gate.size), max(1, gate.size))
            for gate in gates
        ]

    def _admitting(self, number: int) -> Admit:
        """`admit` for the gated units of a block."""
        gates = [gate for gate in self.gates if gate.block == number]

        def admit(place: int, margins: Tensor, wanted: Tensor) -> Tensor:
            return self.admit(gates[place].first, margins.flatten(1), wanted.flatten(1)).view_as(
                wanted
            )

        return admit

    def _score_whole(self, number: int) -> Score:
        """Scores everywhere, read through the fork of the unit that they decide."""
        firsts = iter([gate.first for gate in self.gates if gate.block == number])

        def score(module: HaltingScore, x: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
            x, read = self.fork(x, next(firsts))
            return x, module(read)

        return score

    @staticmethod
    def _residual_at(unit: Unit, x: Tensor, active: Tensor) -> Tensor:
        """The unit's output for one image, computed where it is active."""
        where = Positions.of(active[0].expand(x.shape[2:]))
        if where.everywhere:
            whole: Tensor = unit(x)
            return whole
        flat = x[0].flatten(1)
        return flat.index_add(1, where.index, unit.at(x, where)).view_as(x)

    @staticmethod
    def _score_at(module: HaltingScore, x: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        where = Positions.of(active[0].expand(x.shape[2:]))
        return x, module(x) if where.everywhere or not module.spatial else module.at(x, where)

    def _head(self, x: Tensor) -> Tensor:
        """Logits: the mean before the last normalization on CIFAR, behind it on ImageNet."""
        logits: Tensor
        if self.form.family == "imagenet":
            logits = self.fc(self.bn(x).relu().mean((2, 3)))
        else:
            ready = self.form.activation(self.bn(x.mean((2, 3), keepdim=True)))
            logits = self.fc(ready.flatten(1))
        return logits

    def _output(self, logits: Tensor, runs: list[HaltingRun]) -> Output:
        sums = [total.flatten(1) for run in runs for total in run.sums]
        taken = [active.flatten(1) for run in runs for active in run.active]
        if not sums:
            nothing = logits.new_zeros(len(logits), 0)
            return Output(logits, nothing, nothing, nothing.to(torch.bool))
        margins = self.threshold - torch.cat(sums, 1)
        return Output(logits, margins, margins, torch.cat(taken, 1))

    def _guarded(self, gate: Gate) -> int:
        """MACs of one row of a gate: one position without dilation, or the whole map."""
        units, scores = self._block(gate.block)
        count = torch.tensor([1 if gate.size else self.form.sizes[gate.block] ** 2])
        own = int(units[gate.unit].macs(count, count))
        return own + (scores[gate.unit].own_macs(int(count)) if gate.unit < len(scores) else 0)

    def _always_macs(self) -> int:
        """Stem, head, first unit and first score of each block; all units where nothing halts."""
        total = macs_of(self.stem, self.image_shape) + macs_of(self.fc, (self.fc.in_features,))
        channels, size = (
            self.stem.conv.out_channels,
            self.form.size if self.form.family == "cifar" else self.form.size // 4,
        )
        for number, width in enumerate(self.form.widths):
            units, scores = self._block(number)
            for unit in units if self.halting == "none" else units[:1]:
                total += macs_of(unit, (channels, size, size))
                channels, size = width, self.form.sizes[number]
            if scores:
                total += int(scores[0].macs(torch.tensor([size * size])))
        return total


def _residual_whole(unit: Unit, x: Tensor, active: Tensor) -> Tensor:
    """The unit's output where it is active, of whole maps; images that have halted everywhere are
    left out."""
    wanted = active.flatten(1).any(1)
    # in training the statistics of batch normalization are those of the whole batch
    if unit.training or not picks_rows(x) or bool(wanted.all()):
        return _masked(unit, x, active)
    rows = wanted.nonzero().squeeze(1)
    return on_rows(lambda inputs, _: _masked(unit, inputs, active[rows]), x, x, rows)


def _masked(unit: Unit, x: Tensor, active: Tensor) -> Tensor:
    through: Tensor = unit(x)
    everywhere = picks_rows(x) and bool(active.all())
    return through if everywhere else torch.where(active[:, None], through, x)
