"""Did anything get worse? A run held against a baseline, paired image by image.

Something fails when it got worse by more than a stated effect **and** a paired one-sided randomisation test says that this is no accident,
corrected (Holm) over everything that is compared: at most `alpha` of the checks of an unchanged project raise a false alarm. Compared are

- clean saving and clean accuracy, once for each (target, defence);
- surviving saving, 1 - adversarial MACs / undefended ceiling, and adversarial accuracy, for each attack on it;
- attack strength, where the target itself is unchanged: MACs that an attack used to win and no longer does.

Where a target changed, a higher surviving saving is an improvement and says nothing about the attack. MACs are integers that any machine
counts alike; time is only ever remarked upon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from bench import stats
from bench.baseline import Baseline, Cell, Part
from bench.errors import NotComparable, PlanError, did_you_mean
from bench.stats import Array
from bench.threat import parse_threat

EFFECTS: Mapping[str, float] = {
    "surviving-saving": 0.01,
    "clean-saving": 0.01,
    "clean-accuracy": 0.02,
    "adversarial-accuracy": 0.02,
    "attack-strength": 0.01,
}
"""How much worse each measure may get, as a share, before it counts; `--effect NAME=SHARE` chooses otherwise."""
ALPHA = 0.05
SLOWER = 1.2
"""From this ratio on a slower median is remarked upon."""


@dataclass(frozen=True)
class Comparison:
    """One measure of one cell, before and now.

    Attributes:
        target, defense, attack: labels; attack is "" for what an attack does not change.
        measure: a key of `EFFECTS`. before, now: means, as shares. effect: how much worse it may get.
        worse: by how much the mean got worse (negative: better). low, high: its interval, paired bootstrap.
        p: one-sided, Holm-adjusted. failed: both conditions hold. images: n.
    """

    target: str
    defense: str
    attack: str
    measure: str
    before: float
    now: float
    effect: float
    worse: float
    low: float
    high: float
    p: float
    failed: bool
    images: int

    @property
    def label(self) -> str:
        """The cell, in words."""
        return " / ".join(part for part in (f"{self.target} + {self.defense}" if self.defense else self.target, self.attack) if part)

    @property
    def words(self) -> str:
        """What happened, in one line."""
        name = self.measure.replace("-", " ")
        change = f"{100 * self.before:.1f} % -> {100 * self.now:.1f} %"
        return (
            f"{self.label}: {name} {change} (worse by {100 * self.worse:.1f} points, "
            f"{stats.LEVEL:.0%} interval {100 * self.low:.1f} to {100 * self.high:.1f}, p = {self.p:.2g}; "
            f"{100 * self.effect:g} allowed)"
        )


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        comparisons: all of them, in the order of the plan. notes: what changed beside the numbers. alpha: false alarms allowed.
    """

    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    alpha: float

    @property
    def failures(self) -> tuple[Comparison, ...]:
        """What got worse."""
        return tuple(one for one in self.comparisons if one.failed)

    @property
    def passed(self) -> bool:
        """Whether nothing got worse."""
        return not self.failures

    def summary(self) -> str:
        """One line that a person understands."""
        images = max((one.images for one in self.comparisons), default=0)
        head = f"{len(self.comparisons)} comparisons on {images} images"
        if self.passed:
            return f"check: {head}, none worse than allowed: pass"
        first, *more = sorted(self.failures, key=lambda one: one.effect - one.worse)
        return f"check: REGRESSION in {len(self.failures)} of {head}: {first.words}{f'; and {len(more)} more' if more else ''}"


def check(baseline: Baseline, now: Baseline, *, effects: Mapping[str, float] | None = None, alpha: float = ALPHA) -> Verdict:
    """Hold a run against a baseline.

    Args:
        effects: measure -> share by which it may get worse; those not named keep `EFFECTS`.
        alpha: share of checks of an unchanged project that may fail.

    Raises:
        NotComparable: they were not measured alike; says in what.
        PlanError: an effect that there is not.
    """
    allowed = _effects(effects or {})
    if not 0 < alpha < 1:
        raise PlanError(f"alpha = {alpha}: between 0 and 1")
    notes = [*_environment_notes(baseline, now), *_latency_notes(baseline, now)]
    found: list[tuple[Comparison, Array]] = []
    for before, after in _matched(baseline, now):
        notes += _extra(before, after)
        for old, new in _cells(before, after):
            notes += [note for note in _component_notes(old, new) if note not in notes]
        for comparison, worse in _comparisons(list(_cells(before, after)), before.ids, allowed):
            found.append((comparison, worse))
    if not found:
        raise NotComparable("the baseline has no cell to hold anything against")
    return Verdict(tuple(_tested(found, alpha)), tuple(notes), alpha)


def _effects(given: Mapping[str, float]) -> dict[str, float]:
    for name, value in given.items():
        if name not in EFFECTS:
            raise PlanError(f"effect {name!r}: no such measure{did_you_mean(name, EFFECTS)}")
        if not 0 <= value < 1:
            raise PlanError(f"effect {name} = {value}: a share of at least 0 and below 1, 0.01 is one point")
    return {**EFFECTS, **given}


def _matched(baseline: Baseline, now: Baseline) -> Iterator[tuple[Part, Part]]:
    """Boards measured under the same terms, and with the same images."""
    for before in baseline.parts:
        differences = [_difference(before, after) for after in now.parts]
        if "" not in differences:
            near = min(differences, key=lambda text: text.count(";"), default="the run has no board")
            raise NotComparable(f"this is not what the baseline measured: {near}", hint=_RENEW)
        after = now.parts[differences.index("")]
        missing = sorted(set(before.ids) - set(after.ids))
        if missing or before.ids != after.ids:
            what = f"{len(missing)} images are missing, {missing[0]} first" if missing else "the images stand in another order"
            raise NotComparable(f"this is not what the baseline measured: {what}", hint=_RENEW)
        yield before, after


_RENEW = "if the change is meant, write a new baseline with 'gatebench baseline RUN'"


def _difference(before: Part, after: Part) -> str:
    """In what two protocols differ, in words; "" where they agree."""
    told: list[str] = []
    for name in ("dataset", "images", "threat", "budget", "batch", "seed", "fit", "subset"):
        then, new = before.protocol.get(name), after.protocol.get(name)
        if then != new and not (name == "subset" and told):
            show = (lambda value: str(parse_threat(value))) if name == "threat" else repr
            told.append("the image subset is another one" if name == "subset" else f"{name} was {show(then)}, is {show(new)}")
    return "; ".join(told)


def _cells(before: Part, after: Part) -> Iterator[tuple[Cell, Cell]]:
    """Each cell of the baseline with its counterpart.

    Raises:
        NotComparable: there is none, or its attack has other parameters.
    """
    present = {(*cell.who, cell.attack): cell for cell in after.cells}
    for old in before.cells:
        new = present.get((*old.who, old.attack))
        if new is None:
            raise NotComparable(f"the run has no cell {old.label!r}{did_you_mean(old.label, [c.label for c in after.cells])}", hint=_RENEW)
        if len(new.clean_macs) != len(old.clean_macs):
            raise NotComparable(f"{old.label} has {len(new.clean_macs)} images, the baseline {len(old.clean_macs)}", hint=_RENEW)
        then, params = old.inputs["attack"]["params"], new.inputs["attack"]["params"]
        changed = next((name for name in sorted({*then, *params}) if then.get(name) != params.get(name)), None)
        if old.inputs["attack"]["name"] != new.inputs["attack"]["name"]:
            raise NotComparable(
                f"{old.label}: the attack was {old.inputs['attack']['name']}, is {new.inputs['attack']['name']}", hint=_RENEW
            )
        if changed is not None:
            raise NotComparable(f"{old.label}: {changed} was {then.get(changed)!r}, is {params.get(changed)!r}", hint=_RENEW)
        yield old, new


def _extra(before: Part, after: Part) -> list[str]:
    known = {(*cell.who, cell.attack) for cell in before.cells}
    extra = [cell.label for cell in after.cells if (*cell.who, cell.attack) not in known]
    shown = ", ".join(extra[:5]) + (", …" if len(extra) > 5 else "")
    return [f"NOT IN THE BASELINE, held against nothing: {shown}"] if extra else []


def _component_notes(old: Cell, new: Cell) -> Iterator[str]:
    for kind, name in (("target", old.target), ("defense", old.defense), ("attack", old.attack)):
        then, now = old.inputs[kind], new.inputs[kind]
        for part in ("name", "weights", "params", "version"):
            if then and now and then.get(part) != now.get(part):
                yield f"{name}: {part} changed since the baseline{_which(then.get(part), now.get(part))}"
    if old.ceiling != new.ceiling or old.reference != new.reference:
        yield f"{old.defended}: its ceiling was {old.ceiling:,} MACs, is {new.ceiling:,}; savings are compared as shares"


def _which(then: Any, now: Any) -> str:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        name = next(name for name in sorted({*then, *now}) if then.get(name) != now.get(name))
        return f" ({name} was {then.get(name)!r}, is {now.get(name)!r})"
    return f" (was {then}, is {now})" if isinstance(then, int) else ""


def _comparisons(pairs: list[tuple[Cell, Cell]], ids: tuple[str, ...], effects: Mapping[str, float]) -> Iterator[tuple[Comparison, Array]]:
    """Each comparison, not tested yet, with (n,) by how much every image got worse."""
    seen: set[tuple[str, str]] = set()
    for old, new in pairs:
        if old.who not in seen:
            seen.add(old.who)
            saved = (1 - old.clean_macs / old.reference, 1 - new.clean_macs / new.reference)
            yield _one(old, "", "clean-saving", *saved, effects)
            yield _one(old, "", "clean-accuracy", old.clean_correct, new.clean_correct, effects)
        untouched = np.array_equal(old.clean_macs, old.adversarial_macs) and np.array_equal(old.clean_correct, old.adversarial_correct)
        if old.control and untouched:  # the identity: its numbers are the clean ones
            continue
        yield _one(old, old.attack, "adversarial-accuracy", old.adversarial_correct, new.adversarial_correct, effects)
        if old.control:
            continue
        saved = (1 - old.adversarial_macs / old.reference, 1 - new.adversarial_macs / new.reference)
        yield _one(old, old.attack, "surviving-saving", *saved, effects)
        if _same_target(old, new):
            won = ((old.adversarial_macs - old.clean_macs) / old.reference, (new.adversarial_macs - new.clean_macs) / new.reference)
            yield _one(old, old.attack, "attack-strength", *won, effects)


def _same_target(old: Cell, new: Cell) -> bool:
    """Whether the target and its defence are what they were, to the last integer of their clean results."""
    same = all(old.inputs[kind] == new.inputs[kind] for kind in ("target", "defense"))
    return same and old.ceiling == new.ceiling and np.array_equal(old.clean_macs, new.clean_macs)


def _one(cell: Cell, attack: str, measure: str, before: Array, now: Array, effects: Mapping[str, float]) -> tuple[Comparison, Array]:
    worse = before.astype(np.float64) - now.astype(np.float64)
    n = len(worse)
    means = float(np.mean(before)), float(np.mean(now))
    comparison = Comparison(
        cell.target, cell.defense, attack, measure, *means, effects[measure], float(worse.mean()), 0.0, 0.0, 1.0, False, n
    )
    return comparison, worse


def _tested(found: list[tuple[Comparison, Array]], alpha: float) -> Iterator[Comparison]:
    """The comparisons with p and interval.

    Only what got worse by more than its effect can fail, so only that is tested, with enough permutations for Holm's smallest
    step; the correction counts everything that was compared.
    """
    count = len(found)
    permutations = max(stats.PERMUTATIONS, ceil(20 * count / alpha))
    raw = [stats.sign_flip_p(worse, permutations, one_sided=True) if one.worse > one.effect else 1.0 for one, worse in found]
    for (one, worse), p in zip(found, stats.holm(raw), strict=True):
        if np.any(worse):
            low, high = stats.interval(stats.resamples(len(worse)) @ worse / len(worse))
        else:
            low = high = 0.0
        yield replace(one, low=low, high=high, p=p, failed=one.worse > one.effect and p <= alpha)


def _environment_notes(baseline: Baseline, now: Baseline) -> Iterator[str]:
    for name in ("device", "threads", "gatebench", "versions"):
        then, new = baseline.environment.get(name), now.environment.get(name)
        if then != new and then is not None:
            yield f"made otherwise than the baseline: {name}{_which(then, new) or f' was {then}, is {new}'}"
    if baseline.plan != now.plan:
        yield "the plan is not the one that the baseline was made with"


def _latency_notes(baseline: Baseline, now: Baseline) -> Iterator[str]:
    """Time never fails a check: it is another thing on every machine and at every hour."""
    if not baseline.latency or not now.latency:
        return
    if baseline.latency.get("machine") != now.latency.get("machine"):
        yield "latency was measured on another machine than the baseline's: not compared"
        return
    before = {(one["target"], one["defense"]): one["median_ms"] for one in baseline.latency["entries"]}
    for one in now.latency["entries"]:
        old = before.get((one["target"], one["defense"]))
        if old and one["median_ms"] / old >= SLOWER:
            name = f"{one['target']} + {one['defense']}" if one["defense"] else one["target"]
            yield f"warning: {name} takes {one['median_ms'] / old:.2f} times as long as in the baseline"
