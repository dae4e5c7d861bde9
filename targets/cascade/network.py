"""Cascade: networks in a row, of which the first that is sure enough answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.api import Output
from bench.errors import PlanError
from targets.cascade.stages import Classifier, resized
from targets.pieces.counting import macs_of, require_one
from targets.pieces.sure_chain import SureChain


class Cascade(SureChain):
    """A row of networks of which the first that is sure enough answers: the cheap one for easy
    images, the dearer ones for the others.

    Args:
        networks: one for each stage, or a single one that all stages share, run at several sizes:
            "resnet-20" and other cifar depths, or any classifier of timm.
        sizes: height and width of the images that each stage takes; 0 is the network's own.
        threshold: T in (0, 1), the confidence from which on a stage answers; "weights" is what the
            recipe chose.
        num_classes: "auto" is 10, and 1000 for timm models.

    The images have the largest of the sizes; stages of other sizes resize them, differentiably.
    Unit k is stage k + 1: it runs when the largest softmax of stage k's logits over its
    temperature is below T (and all stages before it ran). Gate value G = 1 - max softmax, threshold
    1 - T, strict. The logit margin is log(T / (1 - T)) less the log-odds of the most likely class:
    the same zero set, and a gradient where softmax has none left. An image that goes on pays for
    all stages up to the one that answers.

    `forward` computes all stages. `execute` stops; the margins of stages it did not reach are
    T - 1, as if those were sure, and `exits` repeats the logits of the one that answered. Logits
    are those divided by the stage's temperature.

    Source: Wang et al., Wisdom of Committees, ICLR 2022 (cascades of pretrained networks, by the
    largest softmax); Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (temperature).
    """

    follows = "Wang et al., Wisdom of Committees, ICLR 2022, with one network a stage"
    unit = "a whole network: the next stage"
    skipped = "all stages behind the one that answers"
    admits = True
    plan_check = "targets.pieces.plan_checks:check_networks"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lite0": {"networks": ["tf_efficientnet_lite0"], "sizes": [160, 224]},
        "resnets": {"networks": ["resnet-20", "resnet-38"], "sizes": [0, 0]},
    }

    def __init__(
        self,
        *,
        networks: tuple[str, ...] = ("resnet-20", "resnet-38"),
        sizes: tuple[int, ...] = (0, 0),
        threshold: float | Literal["weights"] = "weights",
        num_classes: int | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        stages = _check_stages(networks, sizes)
        self.named = networks
        self.networks = nn.ModuleList(Classifier(name, num_classes) for name in networks)
        made = [self._network(stage) for stage in range(stages)]
        self.classes = _shared_classes(networks, [one.classes for one in made])
        self.sizes = tuple(size or one.size for size, one in zip(sizes, made, strict=True))
        self.image_shape = (3, max(self.sizes), max(self.sizes))
        self.log_temperatures = nn.Parameter(torch.zeros(stages - 1))
        costs = self._stage_macs()
        with torch.device("cpu"):
            prefix = torch.tensor(costs).cumsum(0)
        names = [f"stage {stage + 2} at {size} pixels" for stage, size in enumerate(self.sizes[1:])]
        self.link(threshold, prefix, names, "stage")

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate all stages on N images (N, C, H, W) in [0,1]."""
        return self.answer(self.all_stages(images), decisions)

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image (1, C, H, W) up to the stage that answers."""
        require_one(image)
        found = [self.stage_logits(0, image)]
        for unit in range(len(self.units)):
            if not self.goes_on(unit, found[-1], decisions):
                break
            found.append(self.stage_logits(unit + 1, image))
        return self.answer_of_one(found)

    @property
    def temperatures(self) -> Tensor:
        """(S,) of each stage; that of the last, which decides nothing, is 1."""
        learned = self.log_temperatures.exp()
        return torch.cat([learned, learned.new_ones(1)])

    def all_stages(self, images: Tensor) -> Tensor:
        """(N, S, K) logits of every stage, each over its temperature."""
        return torch.stack(
            [self.stage_logits(stage, images) for stage in range(len(self.sizes))], 1
        )

    def stage_logits(self, stage: int, images: Tensor) -> Tensor:
        """(N, K) logits of a stage, over its temperature."""
        raw: Tensor = self._network(stage)(resized(images, self.sizes[stage]))
        wide = raw if images.dtype == torch.float64 else raw.float()
        return wide / self.temperatures[stage].to(wide.dtype)

    def _network(self, stage: int) -> Classifier:
        """The network of a stage; stages may share one."""
        found = self.networks[stage if len(self.networks) > 1 else 0]
        assert isinstance(found, Classifier)
        return found

    def _stage_macs(self) -> list[int]:
        """MACs of each stage for one image, counted by ptflops.

        Raises:
            PlanError: a network does not take images of its size.
        """
        found = []
        for stage, size in enumerate(self.sizes):
            try:
                found.append(macs_of(self._network(stage), (3, size, size)))
            except Exception as error:  # whatever a network of timm raises on another size
                name = self.named[stage if len(self.named) > 1 else 0]
                said = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
                raise PlanError(
                    f"sizes: {name} takes no images of {size} pixels: {said}",
                    hint="0 is the size that it was made for",
                ) from error
        return found


def _check_stages(networks: tuple[str, ...], sizes: tuple[int, ...]) -> int:
    """How many stages there are.

    Raises:
        PlanError: fewer than two, a size that no image has, or neither one network nor one a stage.
    """
    if len(sizes) < 2:
        raise PlanError(f"sizes = {list(sizes)}: a cascade has at least two stages")
    if len(networks) not in (1, len(sizes)):
        raise PlanError(
            f"networks = {list(networks)}: one for each of the {len(sizes)} sizes, or one for all"
        )
    if any(size < 0 for size in sizes):
        raise PlanError(f"sizes = {list(sizes)}: pixels, or 0 for the network's own")
    return len(sizes)


def _shared_classes(networks: tuple[str, ...], classes: list[int]) -> int:
    """The number of classes that all stages tell apart.

    Raises:
        PlanError: they differ.
    """
    if len(set(classes)) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in zip(networks, classes, strict=True))
        raise PlanError(
            f"networks tell different numbers of classes apart: {shown}",
            hint="num_classes sets that of all",
        )
    return classes[0]
