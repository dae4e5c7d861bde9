"""Attacks that keep something between calls."""

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.api import Attack

calls = itertools.count()
seen = {}


@dataclass(frozen=True, kw_only=True)
class Forgetful(Attack):
    """Brightens images a little; by how much is kept in one place or another.

    Attributes:
        keeps: "count" alternates from call to call; "list" grows with what came before; "cache"
            keeps results by image, which changes none of a cell; "nothing".
        by: how many levels brighter, where results are kept by image.
    """

    keeps: Literal["count", "list", "cache", "nothing"]
    by: int = 1

    before: ClassVar[list] = []

    def perturb(self, view, images, labels, job):
        return (images + getattr(self, "_" + self.keeps)(images) / 255).clamp(0, 1)

    def _count(self, images):
        return next(calls) % 2

    def _list(self, images):
        self.before.append(len(images))
        return min(len(self.before), 5)

    def _cache(self, images):
        return seen.setdefault(images.numpy().tobytes(), self.by)

    def _nothing(self, images):
        return 1
