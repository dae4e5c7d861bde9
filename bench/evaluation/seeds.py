"""Random targets: where their draws come from, and what several draws come to.

A random target (`Target.draws` above 1) takes one seed a row. Attacks draw from seeds of their own;
the judge scores with fresh ones, that depend on the protocol's seed, the image's id and nothing
else.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from bench.contracts.target import Output, Target
from bench.files.canonical import seed_of
from bench.plans.devices import has_driver

_STRIDE = 0x9E3779B97F4A7C15
_LARGEST = (1 << 63) - 1


def seeded(target: Target, seeds: Tensor, step: int = 0) -> AbstractContextManager[None]:
    """A context in which a random target draws from `seeds`; a deterministic one sees no seeds.

    Args:
        target: random where its `draws` are above 1.
        seeds: (N,) int64, one a row.
        step: varies the seeds where it is not 0.
    """
    if target.draws == 1:
        return nullcontext()
    return target.evaluating(seeds=varied(seeds, step) if step else seeds)


def seeds_of(ids: Sequence[str], seed: int, what: str, draw: int = 0) -> Tensor:
    """(N,) int64, one an image, from the protocol's seed, the id, and what it is for."""
    seeds = [seed_of(seed, name, what, draw) for name in ids]
    return torch.tensor(seeds, dtype=torch.int64)


def varied(seeds: Tensor, step: int) -> Tensor:
    """(N,) other seeds for another step."""
    return torch.tensor(
        [(seed + step * _STRIDE) & _LARGEST for seed in seeds.tolist()], dtype=torch.int64
    )


def typical(draws: Sequence[Output], macs: Sequence[Tensor]) -> Output:
    """What several draws of the same M images come to: means of logits and margins, and the
    decisions of a draw of median cost.

    The median keeps an attack from being led by the luckiest draw.

    Args:
        macs: (M,) of each draw.
    """
    order = torch.stack(list(macs)).argsort(dim=0, stable=True)
    chosen = order[(len(draws) - 1) // 2]
    rows = torch.arange(len(chosen), device=chosen.device)

    def mean(name: str) -> Tensor:
        return torch.stack([getattr(draw, name) for draw in draws]).mean(0)

    exits = None if draws[0].exits is None else mean("exits")
    decisions = torch.stack([draw.decisions for draw in draws])[chosen, rows]
    return Output(mean("logits"), mean("margins"), mean("logit_margins"), decisions, exits)


def seed_global_streams(seed: int) -> None:
    """Seed the streams of torch, numpy and Python that code draws from without being handed one.

    `torch.manual_seed` notes a stack trace for each kind of device that is not in use yet, which
    takes longer than a batch of a small network. It is called only where there may be a device.
    """
    if torch.cuda.is_initialized() or _may_have_device():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@functools.cache
def _may_have_device() -> bool:
    return has_driver() or torch.backends.mps.is_available()
