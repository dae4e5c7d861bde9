"""Who is ahead: attacks ranked on each target, targets by the saving that survives; one correction
over the whole board.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from bench.contracts.cell import Who
from bench.results import paired, stats


@dataclass(frozen=True)
class Contender:
    """One cell as the ranking sees it.

    Attributes:
        target: whom it attacks.
        macs: (n,) adversarial MACs of each image, None where there are no numbers.
        ceiling: of the target.
        apart: ranked with nobody (a control, or nothing was saved that could be won back).
    """

    target: Who
    macs: stats.Array | None
    ceiling: int
    apart: bool


@dataclass(frozen=True)
class Ranking:
    """Ranks, 1 is best, shared where the paired difference is not significant.

    Attributes:
        attacks: of each contender among those on its target, None for those apart.
        strongest: index of the contender that makes each target dearest, controls included.
        targets: of each target by the saving that survives its strongest contender, but for those
            that are incomplete; {} where nothing is ranked.
    """

    attacks: tuple[int | None, ...]
    strongest: dict[Who, int]
    targets: dict[Who, int]


def rank(
    contenders: Sequence[Contender], *, ranked: bool = True, incomplete: Collection[Who] = ()
) -> Ranking:
    """Rank the cells of a board, all measured on the same images.

    Args:
        contenders: the cells.
        ranked: False where attacks differ in price (no bound), so that nothing is ranked.
        incomplete: targets that are ranked with nobody, since an attack has no numbers on them that
            others had to stand.
    """
    macs = {i: c.macs.astype(np.float64) for i, c in enumerate(contenders) if c.macs is not None}
    groups: dict[Who, list[int]] = {}
    for i in macs:
        groups.setdefault(contenders[i].target, []).append(i)
    strongest = {
        who: max(members, key=lambda i: float(macs[i].mean())) for who, members in groups.items()
    }
    if not ranked:
        return Ranking((None,) * len(contenders), strongest, {})
    contests = {
        who: [i for i in members if not contenders[i].apart] for who, members in groups.items()
    }
    surviving = {
        who: 1 - macs[i] / contenders[i].ceiling
        for who, i in strongest.items()
        if who not in incomplete
    }
    tests = [paired.paired_tests([macs[i] for i in members]) for members in contests.values()]
    tests.append(paired.paired_tests(list(surviving.values())))
    adjusted = iter(paired.holm([p for found in tests for _, _, p in found]))
    *within, between = [[(i, j, next(adjusted)) for i, j, _ in found] for found in tests]
    attacks: list[int | None] = [None] * len(contenders)
    for members, found in zip(contests.values(), within, strict=True):
        for i, place in zip(
            members,
            paired.shared_ranks([float(macs[i].mean()) for i in members], found),
            strict=True,
        ):
            attacks[i] = place
    places = paired.shared_ranks([float(saved.mean()) for saved in surviving.values()], between)
    return Ranking(tuple(attacks), strongest, dict(zip(surviving, places, strict=True)))
