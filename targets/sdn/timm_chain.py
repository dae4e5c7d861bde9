"""Any timm network with feature stages as the backbone of a multi-exit network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.errors import PlanError
from targets.pieces.timm_network import timm_network
from targets.sdn.chains import Chain, Tap, Visit


class _Left(Exception):
    """Raised inside the network's own forward pass where it is left; it carries nothing."""


class TimmChain(Chain):
    """A timm network as it is, with taps behind its feature stages but the last, whose head is the
    network's own.

    Args:
        name: of the model, as in `timm.list_models()`; weights are never downloaded.
        num_classes: "auto" is 1000.

    Image size, mean and deviation are those of timm's data configuration for the model. Stages are
    the modules that the model lists as its features; a forward hook on each shows them, and an
    exception of our own leaves the network there.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, num_classes: int | Literal["auto"]) -> None:
        super().__init__()
        made = timm_network(name, num_classes)
        self.net, self.classes, self.image_shape = made.net, made.classes, made.image_shape
        self.register_buffer("mean", made.mean, persistent=False)
        self.register_buffer("std", made.std, persistent=False)
        self.stages = _stages(name, self.net)
        self.taps = self._measure(name)

    def run(self, images: Tensor, visit: Visit) -> Tensor | None:
        handles = []
        try:
            for place, stage in enumerate(self.stages):
                handles.append(
                    self.net.get_submodule(stage).register_forward_hook(_shown_to(visit, place))
                )
            logits: Tensor = self.net((images - self.mean) / self.std)
        except _Left:
            return None
        finally:
            for handle in handles:
                handle.remove()
        return logits

    def _measure(self, name: str) -> tuple[Tap, ...]:
        """The taps with the shapes of their features, from a pass on the meta device.

        Raises:
            PlanError: the features are no maps of (N, C, H, W).
        """
        shapes: list[tuple[int, int, int]] = []

        def note(place: int, features: Any) -> bool:
            if (
                not isinstance(features, Tensor)
                or features.ndim != 4
                or features.shape[1] != self.widths[place]
            ):
                shown = (
                    tuple(features.shape)
                    if isinstance(features, Tensor)
                    else type(features).__name__
                )
                raise PlanError(
                    f'backbone = "{name}": its feature {self.stages[place]} is {shown}, no map of '
                    f"(N, {self.widths[place]}, H, W); "
                    "convolutional networks such as resnet18, regnetx_002 or mobilenetv2_100 have "
                    "those"
                )
            shapes.append((features.shape[1], features.shape[2], features.shape[3]))
            return False

        known: list[dict[str, Any]] = list(self.net.feature_info)  # type: ignore[arg-type]
        self.widths = {
            place: info["num_chs"] for place, info in enumerate(known[: len(self.stages)])
        }
        weights = {
            key: value.to("meta")
            for key, value in (*self.named_parameters(), *self.named_buffers())
        }
        self.eval()
        with torch.no_grad():
            torch.func.functional_call(
                self, weights, (torch.empty((1, *self.image_shape), device="meta"), note)
            )
        self.train()
        if len(shapes) != len(self.stages):
            raise PlanError(
                f'backbone = "{name}": it lists {len(self.stages) + 1} features, but {len(shapes)} '
                "of their modules run"
            )
        return tuple(Tap(stage, shape) for stage, shape in zip(self.stages, shapes, strict=True))


def _stages(name: str, net: nn.Module) -> tuple[str, ...]:
    """The modules whose outputs are the model's features, but the last.

    Raises:
        PlanError: it has fewer than two, or names modules that it does not have.
    """
    listed = [info.get("module", "") for info in list(getattr(net, "feature_info", None) or [])]
    modules = dict(net.named_modules())
    missing = [stage for stage in listed if stage not in modules]
    if len(listed) < 2 or missing:
        why = (
            f"names modules that it does not have: {', '.join(missing)}"
            if missing
            else f"lists {len(listed)} feature stages"
        )
        raise PlanError(
            f'backbone = "{name}": it {why}; exits need at least two, as resnet18 or '
            "mobilenetv2_100 have them"
        )
    return tuple(listed[:-1])


def _shown_to(visit: Visit, place: int) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, inputs: Any, features: Tensor) -> None:
        if visit(place, features):
            raise _Left

    return hook
