"""In which precision to train: bfloat16 where the device multiplies it natively, float32 elsewhere.

A processor without bfloat16 instructions emulates them, and a training step takes up to 20 times
longer; one that has them takes about half as long. CUDA devices say which they are; processors are
measured, for a fraction of a second.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["bf16", "fp32"]
Choice = Literal["auto", "bf16", "fp32"]

FASTER = 0.9
"""bfloat16 is taken where a step in it takes at most this share of one in float32."""
_ROUNDS = 5


def choose_precision(
    choice: Choice,
    device: torch.device,
    *,
    measure: Callable[[Precision, torch.device], float] | None = None,
) -> Precision:
    """The precision of a training.

    Args:
        choice: "auto" takes what is faster on the device; anything else is taken as it is.
        device: where to train.
        measure: seconds of a training step in a precision; `step_seconds` by default.
    """
    if choice != "auto":
        return choice
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type != "cpu":
        return "fp32"
    seconds = measure or step_seconds
    return "bf16" if seconds("bf16", device) <= FASTER * seconds("fp32", device) else "fp32"


@functools.cache
def step_seconds(precision: Precision, device: torch.device) -> float:
    """Processor seconds of a training step of a small network on one thread, the least of a few.

    Processor time and one thread, since other programs on the machine must not decide. Measured
    once in a program, however many networks it trains.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = nn.Sequential(
                nn.Conv2d(16, 32, 3, padding=1, bias=False),
                nn.BatchNorm2d(32),
                nn.ReLU(),
                nn.Conv2d(32, 32, 3, padding=1, bias=False),
            ).to(device)
            images = torch.rand(8, 16, 32, 32, device=device)
        return min(_timed(network, images, precision) for _ in range(_ROUNDS))
    finally:
        torch.set_num_threads(threads)


def _timed(network: nn.Module, images: Tensor, precision: Precision) -> float:
    began = time.thread_time()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss = network(images).square().mean()
    loss.backward()
    return time.thread_time() - began
