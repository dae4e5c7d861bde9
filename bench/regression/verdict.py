"""What a check found: each comparison with its verdict, and all of them in one line."""

from __future__ import annotations

from dataclasses import dataclass

from bench.contracts.cell import cell_label, defended_name
from bench.results import stats
from bench.results.limits import exact, exceeds, places_apart
from bench.terminal import counted, fixed, percent


@dataclass(frozen=True)
class CheckedMeasure:
    """One measure of one cell, before and now.

    Attributes:
        target: label.
        defense: label, "" for none.
        attack: label, "" for what an attack does not change.
        measure: a key of `EFFECTS`.
        before: mean, as a share.
        now: mean, as a share.
        effect: how much worse it may get.
        worse: by how much the mean got worse (negative: better).
        low: end of its interval, paired bootstrap.
        high: other end.
        p: one-sided, Holm-adjusted; 1 where it got worse by no more than its effect, which is not
            tested.
        failed: whether it got worse by more than its effect, and that is no accident.
        images: n.
        board: terms of its board, "" where there is only one.
        decidable: whether it could have failed; not where it got worse by more than its effect and
            fewer images differ than the test needs.
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
    board: str = ""
    decidable: bool = True

    @property
    def label(self) -> str:
        """The cell, in words, with its board where there are several."""
        name = cell_label(self.target, self.defense, self.attack) if self.attack else self.defended
        return f"{name} ({self.board})" if self.board else name

    @property
    def defended(self) -> str:
        """The target with its defense, in words."""
        return defended_name(self.target, self.defense)

    @property
    def too_much(self) -> bool:
        """Whether the mean got worse by more than its effect, be it by chance or not."""
        return exceeds(self.worse, self.effect)

    @property
    def places(self) -> int:
        """Decimal places of a point with which the change and what may be lost read differently."""
        return places_apart(100 * self.worse, 100 * self.effect) if self.too_much else 1

    @property
    def verdict(self) -> str:
        """ "worse", "ok", or "cannot tell" where the test could not have found it worse."""
        if self.failed:
            return "worse"
        return "ok" if self.decidable else "cannot tell"

    @property
    def words(self) -> str:
        """What happened, in one line."""
        name, places = self.measure.replace("-", " "), self.places
        if self.worse == self.low == self.high == 0:
            return f"{self.label}: {name} {percent(self.now)}, unchanged"
        change, low, high = (
            fixed(-100 * end, places, plus=True) for end in (self.worse, self.high, self.low)
        )
        tested = f", p = {self.p:.2g}" if self.too_much else ""
        return (
            f"{self.label}: {name} {percent(self.before, places)} -> {percent(self.now, places)} "
            f"({change} points, {100 * stats.LEVEL:g} % interval {low} to {high}{tested}; may lose "
            f"{exact(100 * self.effect)})"
        )


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        comparisons: all of them, in the order of the plan.
        notes: what changed beside the numbers.
        alpha: false alarms allowed.
    """

    comparisons: tuple[CheckedMeasure, ...]
    notes: tuple[str, ...]
    alpha: float

    @property
    def failures(self) -> tuple[CheckedMeasure, ...]:
        """What got worse."""
        return tuple(one for one in self.comparisons if one.failed)

    @property
    def passed(self) -> bool:
        """Whether nothing got worse."""
        return not self.failures

    def summary(self) -> str:
        """One line that a person understands."""
        images = max((one.images for one in self.comparisons), default=0)
        head = f"{counted(len(self.comparisons), 'comparison')} on {counted(images, 'image')}"
        if self.passed:
            chance = [one for one in self.comparisons if one.too_much]
            if not chance:
                return f"check: {head}, none worse than allowed: pass"
            worst = max(chance, key=lambda one: one.worse - one.effect)
            blind = sum(not one.decidable for one in chance)
            if blind:
                return (
                    f"check: {head}, {len(chance)} worse than allowed but not beyond chance; of "
                    f"{blind} nobody can tell, since fewer images differ than the test needs "
                    f"(first {worst.words}): pass"
                )
            return (
                f"check: {head}, {len(chance)} worse than allowed but not beyond chance "
                f"(first {worst.words}): pass"
            )
        first, *more = sorted(self.failures, key=lambda one: one.effect - one.worse)
        others = f"; and {len(more)} more" if more else ""
        return f"check: REGRESSION in {len(self.failures)} of {head}: {first.words}{others}"
