"""How our multi-exit networks are trained: exits on a frozen backbone, or all together; then how
sure an exit has to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Moment, Part, Target
from bench.errors import PlanError
from targets.recipes.stage import Metrics, TrainingStage, accuracy
from targets.recipes.static import StaticStage, static_name
from targets.recipes.threshold import choose_threshold
from targets.sdn import SDN
from targets.vit import ViT
from targets.vit.transformer import SMALL


@dataclass(frozen=True, kw_only=True)
class PlainBackboneStage(TrainingStage):
    """static: the backbone without exits, cross-entropy only; what the others' accuracy is measured
    against.

    For our own residual networks and small transformers this is the plain one that all families
    share.

    Attributes:
        backbone: as in `SDN`.
    """

    backbone: str = "resnet-20"
    optimiser: Literal["adamw", "sgd"] = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4

    @property
    def target_name(self) -> str:  # type: ignore[override]
        """The plain ResNet is a target of its own."""
        shared = "vit" if _is_small(self.backbone) else "sdn"
        return "resnet" if _depth(self.backbone) else shared

    def target_params(self) -> dict[str, Any]:
        """The parameters under which the trained network is used."""
        depth = _depth(self.backbone)
        if depth:
            return {"depth": depth, "layout": "cifar"}
        exits = {} if _is_small(self.backbone) else {"exits": "none"}
        return {"backbone": self.backbone, **exits}

    def build(self, classes: int) -> Target:
        """The plain network, with fresh weights."""
        depth = _depth(self.backbone)
        if depth:
            return StaticStage(depth=depth).build(classes)
        if _is_small(self.backbone):
            return ViT(backbone=self.backbone, num_classes=classes)
        return SDN(backbone=self.backbone, exits="none", num_classes=classes)

    def weights_name(self, stage: str) -> str:
        """ "resnet-20-static", "sdn-vgg-16-bn-static"."""
        return plain_name(self.backbone)

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy."""
        output = target(images)
        return F.cross_entropy(output.logits.float(), labels), {
            "accuracy": accuracy(output.logits, labels)
        }


@dataclass(frozen=True, kw_only=True)
class _ExitStage(TrainingStage):
    """What the stages with exits share.

    The last step is not a training step: T becomes the smallest threshold at which the accuracy on
    the held-out images is at most `drop` under that of the last output, relative to it (DeepSloth's
    relative accuracy drop).

    Attributes:
        backbone, exits, otherwise: as in `SDN`.
        drop: the share of the accuracy that may be given up for speed.
    """

    backbone: str = "resnet-20"
    exits: Literal["six", "all"] = "six"
    otherwise: Literal["final", "confident"] = "final"
    drop: float = 0.01
    held_out: float = 0.05

    target_name: ClassVar[str] = "sdn"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.held_out:
            raise PlanError(
                "held_out = 0: the threshold is chosen on held-out images; 0.05 keeps every "
                "twentieth"
            )
        if not 0 <= self.drop < 1:
            raise PlanError(f"drop = {self.drop}: a share of the accuracy, from 0 to below 1")

    def target_params(self) -> dict[str, Any]:
        """The parameters under which the trained network is used."""
        return {"backbone": self.backbone, "exits": self.exits, "otherwise": self.otherwise}

    def build(self, classes: int) -> Target:
        """The network with exits, with fresh weights."""
        return SDN(**self.target_params(), num_classes=classes)

    def weights_name(self, stage: str) -> str:
        """ "sdn-resnet-20-joint", "sdn-vgg-16-bn-all-ic-only"."""
        if stage == "static":
            return plain_name(self.backbone)
        return (
            f"sdn-{self.backbone.replace('_', '-')}{'' if self.exits == 'six' else '-all'}-{stage}"
        )

    def adopt(self, start: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The plain ResNet's tensors belong into the backbone; those of a network with exits are
        where they belong."""
        if any(name.startswith("backbone.") for name in start):
            return start
        return {f"backbone.net.{name}": value for name, value in start.items()}

    def finish(self, target: Target, held: Part) -> None:
        """Choose the threshold."""
        assert isinstance(target, SDN)
        faster = target.equivalent()
        assert isinstance(faster, SDN)
        target.set_threshold(choose_threshold(faster.all_exits, held, self.drop))

    def errors(self, target: SDN, images: Tensor, labels: Tensor) -> tuple[Tensor, Metrics]:
        """((E,) cross-entropy of each exit, the last one's accuracy and the mean one)."""
        return self.errors_of(target.all_exits(images).float(), labels)

    def errors_of(self, exits: Tensor, labels: Tensor) -> tuple[Tensor, Metrics]:
        """The same from (N, E, K) logits of all exits."""
        losses = torch.stack(
            [F.cross_entropy(exits[:, place], labels) for place in range(exits.shape[1])]
        )
        each = (exits.detach().argmax(2) == labels[:, None]).float().mean()
        return losses, {"accuracy": accuracy(exits[:, -1], labels), "accuracy_of_exits": each}


@dataclass(frozen=True, kw_only=True)
class FrozenStage(_ExitStage):
    """ic-only: internal classifiers on the frozen static network, Adam-like steps on their
    cross-entropies.

    The original leaves the backbone's batch normalization in training mode, so that its statistics
    drift; here they are frozen too. The images held out for the threshold must be new to the
    backbone as well: train its static stage with `--set held_out=0.05`, which holds out the same
    ones.

    Attributes:
        cache: compute what the exits pool from the features once, of the images as they are,
            without crops and mirror images; for backbones that are too slow to run in each epoch.
    """

    epochs: int = 6
    lr: float = 4e-3
    cache: bool = False

    start: ClassVar[str] = "static"

    def groups(self, target: Target) -> list[dict[str, Any]]:
        """The internal classifiers only."""
        assert isinstance(target, SDN)
        return [{"params": list(target.heads.parameters())}]

    def begin_epoch(self, target: Target, history: Sequence[Mapping[str, float]]) -> None:
        """Evaluation mode but for the classifiers."""
        assert isinstance(target, SDN)
        target.eval()
        target.heads.train()

    def features(self, target: Target, images: Tensor) -> Tensor | None:
        """(N, D) what all exits pool, and the last output's K logits; None without `cache`."""
        assert isinstance(target, SDN)
        return target.pooled(images) if self.cache else None

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """The sum of the internal classifiers' cross-entropies."""
        assert isinstance(target, SDN)
        if self.cache:
            exits = target.exits_from_pooled(images)
            losses, shown = self.errors_of(exits, labels)
            return losses[:-1].sum(), shown
        losses, shown = self.errors(target, images, labels)
        return losses[:-1].sum(), shown


@dataclass(frozen=True, kw_only=True)
class JointStage(_ExitStage):
    """joint: SDN-training, all exits together from random weights.

    loss = CE_last + sum_k w_k CE_k, where w_k rises linearly from 0.01 to exit k's share of the
    network's cost: the published weights 0.15, 0.3 … 0.9 for exits at 15, 30 … 90 % (Kaya et al.,
    ICML 2019, section 4.2).

    With `--from` it starts from a static network instead: faster to a good accuracy, but what is
    held out for the threshold is new only if that network had it held out as well.
    """

    epochs: int = 12

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropies of all exits, weighted."""
        assert isinstance(target, SDN)
        losses, shown = self.errors(target, images, labels)
        weights = self.weights(target, moment.done).to(losses)
        return losses[-1] + (weights * losses[:-1]).sum(), shown

    def weights(self, target: SDN, done: float) -> Tensor:
        """(E-1,) w_k when the share `done` of the training lies behind."""
        units = len(target.units)
        passed = torch.ones(units, units).tril(-1) > 0
        share = target.macs(passed).to(torch.float64) / target.ceiling
        return 0.01 + (share - 0.01) * done


def plain_name(backbone: str) -> str:
    """The name of the static twin's weights: "resnet-20-static", "vit-32x6-p8-static",
    "sdn-vgg-16-bn-static"."""
    depth = _depth(backbone)
    if depth:
        return static_name(depth, "cifar")
    plain = backbone.replace("_", "-")
    return f"{plain}-static" if _is_small(backbone) else f"sdn-{plain}-static"


def _is_small(backbone: str) -> bool:
    """Whether it is one of our small transformers."""
    return SMALL.fullmatch(backbone) is not None


def _depth(backbone: str) -> int:
    """The depth of one of our residual networks, 0 for other backbones."""
    family, _, depth = backbone.partition("-")
    return int(depth) if family == "resnet" and depth.isdigit() else 0


class SDNRecipe:
    """Multi-exit networks in stages: static (no exits), ic-only (exits on it, frozen), joint (all
    exits from scratch)."""

    stages: ClassVar[Mapping[str, type[TrainingStage]]] = {
        "static": PlainBackboneStage,
        "ic-only": FrozenStage,
        "joint": JointStage,
    }
