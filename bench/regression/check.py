"""Did anything get worse? A run held against a baseline, paired image by image.

Something fails when it got worse by more than a stated effect **and** a paired one-sided
randomisation test says that this is no accident, corrected (Holm) over everything that is compared:
at most `alpha` of the checks of an unchanged project raise a false alarm. Compared are

- clean saving and clean accuracy, once for each (target, defense), whatever the number of attacks
  and boards;
- surviving saving, 1 - adversarial MACs / undefended ceiling, and adversarial accuracy, for each
  attack on it;
- attack strength, where the target itself is unchanged: MACs that an attack used to win and no
  longer does.

A target is unchanged where its clean results are, to the last integer; and where its weights and
parameters are, and only a stray clean result moved, as float noise on another machine may do. Where
it did change, a higher surviving saving is an improvement and says nothing about the attack; that
strength is not compared there is said. MACs are integers that any machine counts alike; time is
only ever remarked upon.

How fine the test is: the exact test on k images that differ reaches 2^-k, so a comparison in which
few images differ, or in which they differ by too little for its effect, can never fail; it is left
out of the correction (Tarone, Biometrics 1990), which costs nothing, since the test takes the sizes
of the differences as given. With m comparisons left the smallest p must reach alpha / m, and the
simulated test reaches a twentieth of that; so what limits a check is the number of its images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import ceil, log2

import numpy as np

from bench.errors import NotComparable, PlanError, did_you_mean
from bench.regression.baseline import Baseline
from bench.regression.matching import changed_inputs, counterparts, pairs, unmatched, which
from bench.regression.records import MeasuredCell
from bench.regression.verdict import CheckedMeasure, CheckResult
from bench.results import paired, stats
from bench.results.limits import exceeds
from bench.results.stats import Array
from bench.terminal import counted

EFFECTS: Mapping[str, float] = {
    "surviving-saving": 0.01,
    "clean-saving": 0.01,
    "clean-accuracy": 0.02,
    "adversarial-accuracy": 0.02,
    "attack-strength": 0.01,
}
"""How much worse each measure may get, as a share, before it counts; `--effect NAME=SHARE` chooses
otherwise."""
ALPHA = 0.05
LEAST_ALPHA = 1e-4
"""Below, the permutations that could show it take minutes."""
MOVED = 0.01
"""Share of clean images (at least one) that float noise may move."""
SLOWER = 1.2
"""From this ratio on a slower median is remarked upon."""


def check(
    baseline: Baseline,
    now: Baseline,
    *,
    effects: Mapping[str, float] | None = None,
    alpha: float = ALPHA,
) -> CheckResult:
    """Hold a run against a baseline.

    Args:
        effects: measure -> share by which it may get worse; those not named keep `EFFECTS`.
        alpha: share of checks of an unchanged project that may fail.

    Raises:
        NotComparable: they were not measured alike; says in what.
        PlanError: an effect that there is not.
    """
    allowed = resolve_effects(effects or {}, alpha)
    notes = [*_environment_notes(baseline, now), *_latency_notes(baseline, now)]
    found: dict[tuple[object, ...], tuple[CheckedMeasure, Array]] = {}
    several = len(baseline.boards) > 1
    matched = list(counterparts(baseline, now))
    for part in now.boards:
        if not any(after is part for _, after in matched):
            notes.append(f"NOT IN THE BASELINE, held against nothing: the board of {part.terms}")
    for before, after in matched:
        if extra := [cell.label for cell in unmatched(before, after)]:
            notes.append(
                "NOT IN THE BASELINE, held against nothing: "
                f"{', '.join(extra[:5])}{', …' if len(extra) > 5 else ''}"
            )
        for old, new in pairs(before, after):
            notes += [note for note in changed_inputs(old, new) if note not in notes]
            if not old.control and not _same_target(old, new):
                notes.append(
                    f"{old.label}: its target changed, so the strength of the attack is not "
                    "compared"
                )
            for comparison, values in _comparisons(old, new, allowed):
                # the clean numbers of a target are the same in all its cells, and often on all
                # boards: they are compared once
                once = (comparison, *(column.tobytes() for column in values))
                found.setdefault(
                    once,
                    (
                        replace(comparison, board=before.terms if several else ""),
                        values[0] - values[1],
                    ),
                )
    if not found:
        raise NotComparable("the baseline has no cell to hold anything against")
    tested = tuple(_tested(list(found.values()), alpha))
    notes += _strength_notes(tested)
    notes += _resolution_notes(tested, alpha)
    return CheckResult(tested, tuple(notes), alpha)


def resolve_effects(given: Mapping[str, float], alpha: float) -> dict[str, float]:
    """The effects of all measures, those given among them.

    Raises:
        PlanError: a measure that there is not, a share or an alpha out of range.
    """
    if not LEAST_ALPHA <= alpha < 1:
        raise PlanError(f"alpha = {alpha}: a share of at least {LEAST_ALPHA} and below 1")
    for name, value in given.items():
        if name not in EFFECTS:
            raise PlanError(f"effect {name!r}: no such measure{did_you_mean(name, EFFECTS)}")
        if not 0 <= value < 1:
            raise PlanError(
                f"effect {name} = {value}: a share of at least 0 and below 1, 0.01 is one point"
            )
    return {**EFFECTS, **given}


def _comparisons(
    old: MeasuredCell, new: MeasuredCell, effects: Mapping[str, float]
) -> Iterator[tuple[CheckedMeasure, tuple[Array, Array]]]:
    """What is compared of a cell, not tested yet, each with what every image had before and has
    now: (n,) float64, more is better."""

    def one(
        attack: str, measure: str, before: Array, now: Array
    ) -> tuple[CheckedMeasure, tuple[Array, Array]]:
        values = before.astype(np.float64), now.astype(np.float64)
        means = float(values[0].mean()), float(values[1].mean())
        worse = float((values[0] - values[1]).mean())
        return CheckedMeasure(
            *old.who,
            attack,
            measure,
            *means,
            effects[measure],
            worse,
            0.0,
            0.0,
            1.0,
            False,
            len(before),
        ), values

    yield one("", "clean-saving", *(1 - cell.clean_macs / cell.reference for cell in (old, new)))
    yield one("", "clean-accuracy", old.clean_correct, new.clean_correct)
    if (
        old.control and _untouched(old) and _untouched(new)
    ):  # the identity: its numbers are the clean ones
        return
    yield one(old.attack, "adversarial-accuracy", old.adversarial_correct, new.adversarial_correct)
    if old.control:
        return
    yield one(
        old.attack,
        "surviving-saving",
        *(1 - cell.adversarial_macs / cell.reference for cell in (old, new)),
    )
    if _same_target(old, new):
        yield one(
            old.attack,
            "attack-strength",
            *((cell.adversarial_macs - cell.clean_macs) / cell.reference for cell in (old, new)),
        )


def _untouched(cell: MeasuredCell) -> bool:
    return np.array_equal(cell.clean_macs, cell.adversarial_macs) and np.array_equal(
        cell.clean_correct, cell.adversarial_correct
    )


def _same_target(old: MeasuredCell, new: MeasuredCell) -> bool:
    """Whether the target and its defense are what they were: all clean results are, or nearly all
    of one that is made of the same."""
    sizes = (old.floor, old.ceiling, old.reference) == (new.floor, new.ceiling, new.reference)
    same = all(old.inputs[kind] == new.inputs[kind] for kind in ("target", "defense"))
    moved = int(
        ((old.clean_macs != new.clean_macs) | (old.clean_correct != new.clean_correct)).sum()
    )
    return sizes and moved <= (max(1, MOVED * len(old.clean_macs)) if same else 0)


def _tested(found: list[tuple[CheckedMeasure, Array]], alpha: float) -> Iterator[CheckedMeasure]:
    """The comparisons with p and interval.

    Only what got worse by more than its effect can fail, so only that is tested, with enough
    permutations for Holm's smallest step; the correction counts everything that could have failed.
    """
    able = _able_to_fail(found, alpha)
    permutations = max(paired.PERMUTATIONS, ceil(20 * max(len(able), 1) / alpha))

    def p_of(one: CheckedMeasure, worse: Array) -> float:
        return (
            paired.sign_flip_p(worse, permutations, one_sided=True, enough=paired.EXTREME_DRAWS)
            if one.too_much
            else 1.0
        )

    adjusted = dict(zip(able, paired.holm([p_of(*found[i]) for i in able]), strict=True))
    intervals = _intervals([worse for _, worse in found])
    for i, ((one, _), (low, high)) in enumerate(zip(found, intervals, strict=True)):
        p = adjusted.get(i, 1.0)
        decidable = i in adjusted or not one.too_much
        failed = one.too_much and p <= alpha
        yield replace(one, low=low, high=high, p=p, failed=failed, decidable=decidable)


def _able_to_fail(found: list[tuple[CheckedMeasure, Array]], alpha: float) -> list[int]:
    """The comparisons that some signs of their differences would make fail; that depends on the
    sizes of the differences alone."""
    finest = {
        i: 0.5 ** np.count_nonzero(worse)
        for i, (one, worse) in enumerate(found)
        if exceeds(float(np.abs(worse).mean()), one.effect) and worse.any()
    }
    for count in range(1, len(finest) + 1):
        able = [i for i, p in finest.items() if p <= alpha / count]
        if len(able) <= count:
            return able
    return []


def _intervals(columns: list[Array]) -> list[tuple[float, float]]:
    """The interval of each mean, all of one length resampled together; (0, 0) where every image is
    as it was."""
    found = [(0.0, 0.0)] * len(columns)
    for n in {len(column) for column in columns}:
        places = [i for i, column in enumerate(columns) if len(column) == n and column.any()]
        means = (
            stats.resamples(n) @ np.array([columns[i] for i in places]).T / n
            if places
            else np.zeros((0, 0))
        )
        for i, draws in zip(places, means.T, strict=True):
            found[i] = stats.interval(draws)
    return found


def _strength_notes(tested: tuple[CheckedMeasure, ...]) -> Iterator[str]:
    """A loss of saving on a target that is itself unchanged is the attack's doing."""
    unchanged = {(one.label, one.board) for one in tested if one.measure == "attack-strength"}
    for one in tested:
        if one.failed and one.measure == "surviving-saving" and (one.label, one.board) in unchanged:
            yield (
                f"{one.label}: the target itself is unchanged, so it is the attack that became "
                "stronger"
            )


def _resolution_notes(tested: tuple[CheckedMeasure, ...], alpha: float) -> Iterator[str]:
    """A gate that cannot fire says so."""
    images, least, needed = (
        max(one.images for one in tested),
        ceil(log2(1 / alpha)),
        ceil(log2(len(tested) / alpha)),
    )
    if images < least:
        raise NotComparable(
            f"{counted(images, 'image')}: a test at alpha = {alpha} needs at least "
            f"{least} that differ, so "
            "this check could never fail",
            hint="raise protocol.images, and write a new baseline",
        )
    if images < needed:
        yield (
            f"FEW IMAGES: {images}; what makes all of "
            f"{counted(len(tested), 'comparison')} differ is only "
            f"found from {needed} on"
        )


def _environment_notes(baseline: Baseline, now: Baseline) -> Iterator[str]:
    for name in ("device", "threads", "gatebench", "versions"):
        then, new = baseline.environment.get(name), now.environment.get(name)
        if then != new and then is not None:
            change = which(then, new) or f" was {then}, is {new}"
            yield f"made otherwise than the baseline: {name}{change}"
    if baseline.plan != now.plan:
        yield "the plan is not the one that the baseline was made with"


def _latency_notes(baseline: Baseline, now: Baseline) -> Iterator[str]:
    """Time never fails a check: it is another thing on every machine and at every hour."""
    if baseline.latency is None or now.latency is None:
        return
    if baseline.latency.machine != now.latency.machine:
        yield "latency was measured on another machine than the baseline's: not compared"
        return
    before = {(one.target, one.defense): one for one in baseline.latency.entries}
    for one in now.latency.entries:
        old = before.get((one.target, one.defense))
        if old is not None and old.images != one.images:
            yield (
                f"latency of {one.defended} was timed on {counted(one.images, 'image')}, the "
                f"baseline's on {old.images}: not compared"
            )
        elif old and old.median_ms and one.median_ms / old.median_ms >= SLOWER:
            times = f"{one.median_ms / old.median_ms:.2f} times as long as in the baseline"
            yield f"warning: {one.defended} takes {times}"
