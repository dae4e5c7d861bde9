"""Attacks that keep something between calls."""

import functools
import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from bench.api import Attack

calls = itertools.count()
seen = {}


@functools.cache
def drawn(shape):
    return torch.rand(shape)


@dataclass(frozen=True, kw_only=True)
class Forgetful(Attack):
    """Brightens images a little; by how much is kept in one place or another.

    Attributes:
        keeps: "count" alternates from call to call; "list" grows with what came before; "first"
            does to all images what it drew for the first ones, "drawn" likewise by a cached
            function; "cache" keeps results by image, which changes none of a cell; "size" a
            constant; "nothing".
        by: how many levels brighter, where results are kept by image.
    """

    keeps: Literal["count", "list", "first", "drawn", "cache", "size", "nothing"]
    by: int = 1

    before: ClassVar[list] = []

    def perturb(self, view, images, labels, job):
        return (images + getattr(self, "_" + self.keeps)(images) / 255).clamp(0, 1)

    def _count(self, images):
        return next(calls) % 2

    def _list(self, images):
        self.before.append(len(images))
        return min(len(self.before), 5)

    def _first(self, images):
        return seen.setdefault("first", torch.rand(images.shape[1:])) * 8

    def _drawn(self, images):
        return drawn(images.shape[1:]) * 8

    def _size(self, images):
        return seen.setdefault("size", torch.ones(images.shape[1:]))

    def _cache(self, images):
        return seen.setdefault(images.numpy().tobytes(), self.by)

    def _nothing(self, images):
        return 1


class Hoarder(Attack):
    """One step along the sign of the gradient, longer with more budget. The signs are kept by image
    and budget, and used again whichever network is attacked."""

    def perturb(self, view, images, labels, job):
        rows = torch.arange(len(images))
        _, (grad,) = view.gradients(lambda out: [out.logit_margins.sum(1)], images, rows)
        sign = seen.setdefault((job.ids, job.budget), grad.sign())
        return (images + job.budget / 2000 * sign).clamp(0, 1)
