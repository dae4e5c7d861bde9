"""Signs that an attack's number says more about the attack than about the target: what AutoAttack
warns of, for energy.

Obfuscated gradients look like robustness. These checks flag them; they judge nobody. A target whose
two forward passes differ is not flagged but invalid (`bench.evaluation.target_checks.probe`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.contracts.threat import parse_threat
from bench.results.records import Board, BoardCell
from bench.store.target import GradientCounts, TargetDescription, Yardstick

RISING_BY = 0.01
"""Recovery that the second half of the budget may still add before an attack counts as not
converged: one point.
"""
STUCK_BY = 0.02
"""Recovery by which the yardstick has to lead an attack for it to count as stuck: two points."""
AHEAD_BY = 0.002
"""Recovery by which a black box may lead the white boxes."""


def of_target(target: TargetDescription) -> list[str]:
    """Flags from what a target says of itself."""
    here = target.dataset.name.partition(":")[0]
    elsewhere = target.trained_on not in ("", here)
    return [
        *of_gradients(target.gradients),
        *(["trained-elsewhere"] if elsewhere else []),
        *(["randomised"] if target.draws > 1 else []),
    ]


def of_gradients(found: GradientCounts) -> list[str]:
    """Flags from what `bench.evaluation.masking` found."""
    flags = {
        "zero-gradient": found.zero > 0,
        "saturated-gates": found.saturated > 0,
        "misleading-gradient": 2 * found.misled > found.images,
        "hard-masks": found.hard_masks,
    }
    return [name for name, holds in flags.items() if holds]


@dataclass(frozen=True)
class Seen:
    """A cell as these checks see it.

    Attributes:
        macs: mean adversarial MACs.
        reserve: mean of the ceiling less clean MACs.
        blind: saw executed MACs alone.
        past: knew the network, not its defense.
    """

    macs: float
    reserve: float
    blind: bool
    past: bool


def of_group(cells: Sequence[Seen]) -> list[list[str]]:
    """Flags of each of the attacks on one (target, defense): what those without gradients, or
    without knowledge of the defense, won more than all the others.
    """
    reserve = max((cell.reserve for cell in cells), default=0.0)
    aware = [cell.macs for cell in cells if not cell.blind and not cell.past]
    flags: list[list[str]] = [[] for _ in cells]
    if not aware or reserve <= 0:
        return flags
    for flag, rivals in (
        ("black-box-leads", [cell.macs for cell in cells if cell.blind]),
        ("transfer-leads", [cell.macs for cell in cells if cell.past]),
    ):
        if rivals and (max(rivals) - max(aware)) / reserve > AHEAD_BY:
            for cell, found in zip(cells, flags, strict=True):
                if not cell.blind and not cell.past:
                    found.append(flag)
    return flags


def shrinks(recoveries: Sequence[tuple[float, float]]) -> list[bool]:
    """Of (radius, recovery) pairs, in the order given: whether a smaller radius recovered more, by
    more than a point.

    A ball holds every smaller one, so a number that falls as it grows is the attack's failure, not
    the target's strength.
    """
    return [
        any(r < radius and won - recovery > RISING_BY for r, won in recoveries)
        for radius, recovery in recoveries
    ]


def is_still_rising(
    traces: Sequence[Sequence[Mapping[str, Any]]],
    clean: Sequence[int],
    spent: Sequence[int],
    ceiling: int,
) -> bool:
    """Whether the second half of what was spent still won a point of recovery or more: doubling the
    steps paid.

    Args:
        traces: of each image, points of (evaluations, macs) of its best image so far.
        clean: MACs of each image.
        spent: its forward-equivalents in all.
    """
    reserve = sum(ceiling - macs for macs in clean)
    if reserve <= 0:
        return False
    late = 0
    for points, start, used in zip(traces, clean, spent, strict=True):
        if points and points[-1]["macs"] < ceiling:  # who has arrived needs no more steps
            half = max(
                [point["macs"] for point in points if 2 * point["evaluations"] <= used],
                default=start,
            )
            late += max(points[-1]["macs"] - max(half, start), 0)
    return late / reserve >= RISING_BY


def is_stuck(
    macs: Sequence[int],
    clean: Sequence[int],
    yardstick: Yardstick,
    ceiling: int,
    budget: int,
) -> bool:
    """Whether a short attack on a concave loss executes clearly more on a board's first images.

    Clearly: by two points of recovery, and by twice the standard error of the paired difference.
    An attack that was given less than the yardstick costs is not judged.

    Args:
        macs: adversarial MACs of the attack, an image each, in the board's order.
        clean: clean MACs of the same images.
        yardstick: what `bench.evaluation.yardstick.measure` returned.
        ceiling: MACs of everything.
        budget: of the attack, forward-equivalents an image.
    """
    best = yardstick.macs
    count = min(len(macs), len(best))
    if count < 2 or budget < yardstick.cost:
        return False
    reserve: float = sum(ceiling - start for start in clean[:count]) / count
    if reserve <= 0:
        return False
    leads = [one - other for one, other in zip(best[:count], macs[:count], strict=True)]
    mean: float = sum(leads) / count
    variance = sum((lead - mean) ** 2 for lead in leads) / (count - 1)
    error = math.sqrt(variance / count)
    return mean / reserve >= STUCK_BY and mean >= 2 * error


def with_rival_flags(cells: Sequence[BoardCell]) -> list[BoardCell]:
    """The cells of a board, flagged where a black box or a transferred attack on the same defended
    target won more than they did.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for i, cell in enumerate(cells):
        if (
            cell.status == "ok"
            and not cell.control
            and not cell.combination
            and cell.recovery.value is not None
        ):
            groups.setdefault((cell.target, cell.defense), []).append(i)
    found = list(cells)
    for members in groups.values():
        seen = [
            Seen(
                cells[i].adversarial_macs or 0,
                (cells[i].reference or 0) - (cells[i].clean_macs or 0),
                cells[i].sees == "macs",
                cells[i].sees == "network",
            )
            for i in members
        ]
        for i, found_flags in zip(members, of_group(seen), strict=True):
            found[i] = _flagged(found[i], found_flags)
    return found


def with_radius_flags(boards: Sequence[Board]) -> list[Board]:
    """The boards of a run, their cells flagged where the same attack recovered more inside a
    smaller ball of the same norm.
    """
    places: dict[tuple[object, ...], list[tuple[int, int, float, float]]] = {}
    for number, board in enumerate(boards):
        radius = _radius(board)
        if radius is None:
            continue
        terms = (
            board.dataset,
            board.protocol["images"],
            board.protocol["budget"],
            board.protocol["seed"],
            radius[0],
        )
        for i, cell in enumerate(board.cells):
            if cell.status == "ok" and not cell.control and cell.recovery.value is not None:
                who = (*terms, cell.target, cell.defense, cell.attack)
                places.setdefault(who, []).append((number, i, radius[1], cell.recovery.value))
    lists = [list(board.cells) for board in boards]
    for found in places.values():
        fails = shrinks([(radius, recovery) for _, _, radius, recovery in found])
        for (number, i, _, _), fail in zip(found, fails, strict=True):
            if fail:
                lists[number][i] = _flagged(lists[number][i], ["shrinks-with-radius"])
    return [replace(board, cells=tuple(cells)) for board, cells in zip(boards, lists, strict=True)]


def _radius(board: Board) -> tuple[str, float] | None:
    """(norm, a number that grows with the ball); None where there is no ball."""
    threat = parse_threat(board.protocol["threat"])
    if threat.norm == "none":
        return None
    return threat.norm, -float(threat.amount) if threat.norm == "psnr" else float(threat.amount)


def _flagged(cell: BoardCell, flags: Sequence[str]) -> BoardCell:
    return replace(cell, flags=(*cell.flags, *(flag for flag in flags if flag not in cell.flags)))
