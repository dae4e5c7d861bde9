"""What the process is set to while an attack takes gradients: which numbers, and which memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from bench.contracts.cell import Precision
from bench.contracts.target import Output
from bench.errors import PlanError

AMPERE = (8, 0)
"""The compute capability from which on NVIDIA GPUs have TF32 and bfloat16."""


def check_precision(precision: Precision, device: torch.device) -> None:
    """Whether a device computes in it.

    Raises:
        PlanError: it does not; names the choice.
    """
    able = precision == "float32" or (precision == "bf16" and device.type == "cpu")
    if not able and device.type == "cuda":
        able = torch.cuda.get_device_capability(device) >= AMPERE
    if not able:
        name = "TF32" if precision == "tf32" else "bfloat16"
        raise PlanError(
            f'protocol.precision = "{precision}": {device} has no {name}',
            hint='"float32" runs everywhere',
        )


@contextlib.contextmanager
def gradient_pass(precision: Precision = "float32") -> Iterator[None]:
    """Leave fresh memory as it is and allow TF32 where asked; afterwards as before.

    Deterministic algorithms fill all memory that torch hands out, so that a network that reads what
    it never wrote is at least the same each time. In a gradient pass that is a sixth of the time.
    Scores, audits and everything else that becomes a number stay outside.
    """
    memory: Any = torch.utils.deterministic
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (
        memory.fill_uninitialized_memory,
        products.allow_tf32,
        convolutions.allow_tf32,
    )
    memory.fill_uninitialized_memory = False
    if precision == "tf32":
        products.allow_tf32 = convolutions.allow_tf32 = True
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = before[0]
        if precision == "tf32":
            products.allow_tf32, convolutions.allow_tf32 = before[1:]


def reduced(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Where the network runs forwards: autocast to bfloat16, or nothing; the backward pass follows
    the types of the forward one."""
    if precision != "bf16":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def widened(output: Output) -> Output:
    """The output in float32 where autocast left it in bfloat16, in the same graph."""
    exits = output.exits
    return replace(
        output,
        logits=_wide(output.logits),
        margins=_wide(output.margins),
        logit_margins=_wide(output.logit_margins),
        exits=None if exits is None else _wide(exits),
    )


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.float() if values.dtype == torch.bfloat16 else values
