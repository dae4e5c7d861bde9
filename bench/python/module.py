"""A torch module that fulfils the contract of a target without deriving from it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bench.contracts.target import Output, Target
from bench.errors import ContractBroken

REQUIRED = ("units", "image_shape", "classes", "execute", "macs")
"""What makes a module a target, beside `forward`."""


class ModuleTarget(Target):
    """Hands everything on to a module that has what a target has.

    Args:
        module: with `forward(images, decisions=None)`, `execute(image, decisions=None)`,
            `macs(decisions)`, `units`, `image_shape` and `classes`, as `bench.api.Target` says.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        inner: Any = module
        self.module = inner
        self.units = inner.units
        self.image_shape = tuple(inner.image_shape)
        self.classes = int(inner.classes)

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        output: Output = self.module(images, decisions)
        return output

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        output: Output = self.module.execute(image, decisions)
        return output

    def macs(self, decisions: Tensor) -> Tensor:
        found: Tensor = self.module.macs(decisions)
        return found


def as_target(given: object) -> Target:
    """A target from an object of a program.

    Args:
        given: a `bench.api.Target`, or a module that has all of a target's required parts.

    Raises:
        ContractBroken: it is neither; says what it lacks.
    """
    if isinstance(given, Target):
        return given
    name = type(given).__name__
    if not isinstance(given, nn.Module):
        raise ContractBroken(
            f"{name} is no torch.nn.Module and no bench.api.Target",
            hint="give the name of weights ('gatebench list weights'), a target, or a module",
        )
    lacking = [part for part in REQUIRED if not hasattr(given, part)]
    if lacking:
        hint = (
            "the guide docs/guides/target.md says what to write; a network that leaves nothing out "
            "has no energy to attack"
        )
        if type(given).__module__.startswith("timm."):
            hint = (
                "it is a plain network of timm: the targets sdn and cascade make it dynamic; the "
                "guide docs/guides/pretrained.md says how"
            )
        raise ContractBroken(
            f"{name} is a module without {', '.join(lacking)}, so nobody knows what it can leave "
            "out and what that costs",
            hint=hint,
        )
    return ModuleTarget(given)
