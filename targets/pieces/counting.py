"""What a module costs, and how batches and single images are told apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.errors import ContractBroken


def macs_of(module: nn.Module, *shapes: tuple[int, ...]) -> int:
    """MACs that `module` really executes for one image, counted by ptflops, biases included.

    The module runs once, in eval mode, where its weights are: on the meta device torch would import
    its compiler for batch normalization.

    Args:
        module: any piece of a network.
        shapes: (C, H, W) or (C,) of each input.
    """
    from ptflops.aten_engine import FlopCounterMode

    device = next((value.device for value in module.parameters()), torch.device("cpu"))
    inputs = tuple(torch.zeros((1, *shape), device=device) for shape in shapes)
    counter, was_training = FlopCounterMode(), module.training
    module.eval()
    try:
        with torch.no_grad(), counter:
            module(*inputs)
    finally:
        module.train(was_training)
    return int(counter.complexity)


def picks_rows(x: Tensor) -> bool:
    """Whether rows of a batch that need no work are left out by gathering the others.

    It saves time on the CPU; elsewhere the host would have to wait for the device.
    """
    return x.device.type == "cpu"


def require_one(image: Tensor) -> None:
    """Refuse batches where a single image is executed.

    Raises:
        ContractBroken: when `image` is not (1, C, H, W).
    """
    if image.ndim != 4 or len(image) != 1:
        raise ContractBroken(
            f"execute takes one image, (1, C, H, W), got {tuple(image.shape)}",
            hint="execute the images of a batch one by one: images[i : i + 1]",
        )
