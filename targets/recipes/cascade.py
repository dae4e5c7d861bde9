"""How cascades are made of trained networks: temperatures, then how sure a stage has to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Moment, Part, Target
from bench.errors import PlanError
from targets.cascade import Cascade
from targets.recipes.sdn import plain_name
from targets.recipes.stage import Metrics, TrainingStage
from targets.recipes.threshold import choose_threshold


@dataclass(frozen=True, kw_only=True)
class CalibrateStage(TrainingStage):
    """calibrate: no network is trained; each stage but the last gets a temperature, the cascade a
    threshold.

    The temperatures minimize the cross-entropy of each stage's logits over its temperature. Then T
    becomes the smallest threshold at which the accuracy on the held-out images is at most `drop`
    under that of the last stage, relative to it. The logits of the images are computed once.
    Images that a network was trained on make it look surer than it is; calibrate on others where
    there are any.

    Attributes:
        networks, sizes: as in `Cascade`.
        weights: of each network, by name: a plain network's, such as "resnet-20-static@digits-m".
        drop: the share of the accuracy that may be given up for speed.
    """

    networks: tuple[str, ...] = ("resnet-20", "resnet-38")
    sizes: tuple[int, ...] = (0, 0)
    weights: tuple[str, ...] = ()
    drop: float = 0.01
    held_out: float = 0.5
    epochs: int = 20
    lr: float = 0.05
    weight_decay: float = 0.0
    schedule: Literal["one-cycle", "step", "constant"] = "step"

    target_name: ClassVar[str] = "cascade"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.weights) != len(self.networks):
            raise PlanError(
                f"weights = {list(self.weights)}: one name for each of {list(self.networks)}, "
                "such as resnet-20-static@digits-m"
            )
        if not self.held_out:
            raise PlanError("held_out = 0: the threshold is chosen on held-out images")
        if not 0 <= self.drop < 1:
            raise PlanError(f"drop = {self.drop}: a share of the accuracy, from 0 to below 1")

    def target_params(self) -> dict[str, Any]:
        """The parameters under which the cascade is used."""
        return {"networks": list(self.networks), "sizes": list(self.sizes)}

    def build(self, classes: int) -> Target:
        """The cascade, with fresh weights."""
        return Cascade(networks=tuple(self.networks), sizes=tuple(self.sizes), num_classes=classes)

    def borrowed(self) -> Mapping[str, str]:
        """Every network, from its own weights."""
        return {f"networks.{place}.net.": name for place, name in enumerate(self.weights)}

    def weights_name(self, stage: str) -> str:
        """ "cascade-resnet-20-resnet-38", "cascade-tf-efficientnet-lite0-160-224"; for "static"
        that of the last network."""
        if stage == "static":
            return plain_name(self.networks[-1])
        names = [name.replace("_", "-") for name in self.networks]
        return "-".join(["cascade", *names, *(str(size) for size in self.sizes if size)])

    def groups(self, target: Target) -> list[dict[str, Any]]:
        """The temperatures only."""
        assert isinstance(target, Cascade)
        return [{"params": [target.log_temperatures]}]

    def features(self, target: Target, images: Tensor) -> Tensor:
        """(N, S K) logits of all stages, before they are divided by temperatures."""
        assert isinstance(target, Cascade)
        return (target.all_stages(images) * target.temperatures[None, :, None]).flatten(1)

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """The sum of the stages' cross-entropies over their temperatures, the last left out.

        Args:
            target: the cascade.
            images: (N, S K), of `features`.
            labels: (N,) int64.
            moment: where the training stands.
        """
        assert isinstance(target, Cascade)
        raw = images.unflatten(1, (-1, target.classes))
        logits = raw / target.temperatures[None, :, None]
        losses = torch.stack(
            [F.cross_entropy(logits[:, stage], labels) for stage in range(logits.shape[1] - 1)]
        )
        shown = {
            f"temperature_{stage + 1}": value
            for stage, value in enumerate(target.temperatures[:-1].detach())
        }
        return losses.sum(), shown

    def finish(self, target: Target, held: Part) -> None:
        """Choose the threshold."""
        assert isinstance(target, Cascade)
        faster = target.equivalent()
        assert isinstance(faster, Cascade)
        target.set_threshold(choose_threshold(faster.all_stages, held, self.drop))


class CascadeRecipe:
    """Cascades of trained networks, in one stage: calibrate."""

    stages: ClassVar[Mapping[str, type[TrainingStage]]] = {"calibrate": CalibrateStage}
