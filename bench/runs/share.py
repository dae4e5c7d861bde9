"""A share of a run: one of n parts that machines compute without knowing of each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bench.contracts.cell import Cell
from bench.errors import PlanError

MOST_SHARES = 100_000


@dataclass(frozen=True)
class Share:
    """Share `number` of `of`, counted from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def suffix(self) -> str:
        """What the name of its run ends with."""
        return f"-{self.number}of{self.of}"


def parse_share(text: str) -> Share:
    """The share that "2/5" means.

    Raises:
        PlanError: it means none.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MOST_SHARES:
        raise PlanError(
            f"--share {text}: expected I/N with 1 <= I <= N, such as --share 2/5",
            hint="each of N machines takes one I; 'gatebench merge' unites what they computed",
        )
    return Share(int(match[1]), int(match[2]))


class Division:
    """Which share computes which shard.

    All shards of the plan are put in one row, cells by their keys and the shards of a cell by their
    images, and the row is cut into n parts whose lengths differ by one at most. So it hangs on the
    plan and the shard size alone, every shard belongs to exactly one share, and a cell is opened
    by few of them.

    Args:
        cells: the cells that are computed, by key.
        size: images of a shard.
        share: whose shards `has` tells.
    """

    def __init__(self, cells: Mapping[str, Cell], size: int, share: Share) -> None:
        self._share = share
        self._first: dict[str, int] = {}
        self._images: dict[str, int] = {}
        total = 0
        for key in sorted(cells):
            protocol = cells[key].protocol
            self._first[key] = total
            self._images[key] = max(size // protocol.batch, 1) * protocol.batch
            total += -(-protocol.images // self._images[key])
        self._total = total

    def has(self, key: str, first: int) -> bool:
        """Whether the share computes the shard of a cell that starts with image `first`."""
        place = self._first[key] + first // self._images[key]
        return place * self._share.of // self._total == self._share.number - 1
