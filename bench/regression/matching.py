"""Which parts of two measurements belong together, and what keeps them apart.

Boards belong together where they were measured under the same terms, cells where target, defense
and attack have the same labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.contracts.cell import Fit
from bench.contracts.threat import Threat
from bench.errors import NotComparable, did_you_mean
from bench.regression.baseline import Baseline
from bench.regression.records import MeasuredBoard, MeasuredCell
from bench.terminal import counted

RENEW = "if the change is meant, write a new baseline with 'gatebench baseline RUN'"

_TERMS = (
    "dataset",
    "images",
    "threat",
    "budget",
    "batch",
    "seed",
    "precision",
    "fit",
    "fit_subset",
    "subset",
)


def differing(before: MeasuredBoard, after: MeasuredBoard) -> list[tuple[str, str, str]]:
    """(name, then, now) of the terms in which two boards differ, as shown.

    Terms of the fit count where both have cells that learn something. Another subset is told where
    nothing else explains it.
    """
    found: list[tuple[str, str, str]] = []
    for name in _TERMS:
        then, now = getattr(before.protocol, name), getattr(after.protocol, name)
        if then == now or (name.startswith("fit") and (then is None or now is None)):
            continue
        if not name.endswith("subset"):
            found.append((name, _shown(then), _shown(now)))
        elif not found:
            found.append((name, "", ""))
    return found


OTHER_IMAGES = {
    "subset": "the image subset is another one",
    "fit_subset": "the images of the fit are others",
}
"""How a difference is told whose values say nothing to people."""


def _shown(value: object) -> str:
    if isinstance(value, Fit):
        return ", ".join(f"{key} {part}" for key, part in vars(value).items())
    return str(value) if isinstance(value, Threat) else repr(value)


def counterparts(
    baseline: Baseline, now: Baseline, *, measured: bool = True
) -> Iterator[tuple[MeasuredBoard, MeasuredBoard]]:
    """Each board of the baseline with the one that was measured alike.

    Args:
        measured: hold the images against each other too; not for a plan that has not run.

    Raises:
        NotComparable: there is none; says in what the nearest differs.
    """
    for before in baseline.boards:
        if not now.boards:
            raise NotComparable("the run has no board")
        after = nearest(before, now.boards)
        if told := [
            OTHER_IMAGES.get(name, f"{name} was {then}, is {new}")
            for name, then, new in differing(before, after)
        ]:
            raise NotComparable(
                f"this is not what the baseline measured: {'; '.join(told)}", hint=RENEW
            )
        if measured and before.cells and before.ids != after.ids:
            raise NotComparable(
                f"this is not what the baseline measured: {_other_images(before, after)}",
                hint=RENEW,
            )
        yield before, after


def nearest(before: MeasuredBoard, boards: Sequence[MeasuredBoard]) -> MeasuredBoard:
    """The board whose terms differ least; at least one is there."""
    return min(boards, key=lambda after: len(differing(before, after)))


def _other_images(before: MeasuredBoard, after: MeasuredBoard) -> str:
    there = set(after.ids)
    missing = [name for name in before.ids if name not in there]
    if missing:
        return f"it lacks {counted(len(missing), 'image')}, {missing[0]} first"
    return (
        "the images stand in another order"
        if len(there) == len(before.ids)
        else "the run has other images"
    )


def pairs(
    before: MeasuredBoard, after: MeasuredBoard
) -> Iterator[tuple[MeasuredCell, MeasuredCell]]:
    """Each cell of a board of the baseline with its counterpart.

    Raises:
        NotComparable: there is none, or its attack is another one or has other parameters.
    """
    present = {cell.labels: cell for cell in after.cells}
    for old in before.cells:
        new = present.get(old.labels)
        if new is None:
            reason = after.left_out.get(old.label)
            why = (
                f": it is {reason}"
                if reason
                else did_you_mean(old.label, [cell.label for cell in after.cells])
            )
            raise NotComparable(f"the run has no cell {old.label!r}{why}", hint=RENEW)
        then, now = old.inputs["attack"], new.inputs["attack"]
        if then["name"] != now["name"]:
            raise NotComparable(
                f"{old.label}: the attack was {then['name']}, is {now['name']}", hint=RENEW
            )
        if name := first_change(then["params"], now["params"]):
            values = then["params"].get(name, "absent"), now["params"].get(name, "absent")
            raise NotComparable(
                f"{old.label}: {name} was {values[0]!r}, is {values[1]!r}", hint=RENEW
            )
        yield old, new


def check_plan(baseline: Baseline, planned: Baseline) -> None:
    """Say before anything is computed that a plan cannot be held against a baseline.

    Args:
        planned: from `Baseline.of_plan`.

    Raises:
        NotComparable: in what.
    """
    for before, after in counterparts(baseline, planned, measured=False):
        for _ in pairs(before, after):
            pass


def first_change(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first name, in order, whose values differ."""
    return next((name for name in sorted({*then, *now}) if then.get(name) != now.get(name)), None)


def unmatched(before: MeasuredBoard, after: MeasuredBoard) -> list[MeasuredCell]:
    """The cells of the second board that the first has not."""
    known = {cell.labels for cell in before.cells}
    return [cell for cell in after.cells if cell.labels not in known]


def changed_inputs(old: MeasuredCell, new: MeasuredCell) -> Iterator[str]:
    """What is not the same about the target, the defense and the attack of two cells, in words."""
    for kind, name in (("target", old.target), ("defense", old.defense), ("attack", old.attack)):
        then, now = old.inputs[kind], new.inputs[kind]
        for part in ("name", "weights", "params", "version", "members"):
            if then and now and then.get(part) != now.get(part):
                yield f"{name}: {part} changed{which(then.get(part), now.get(part))}"
    if (old.ceiling, old.reference) != (new.ceiling, new.reference):
        yield (
            f"{old.defended}: its ceiling was {old.ceiling:,} MACs, is {new.ceiling:,}; "
            "savings are compared as shares"
        )


def which(then: Any, now: Any) -> str:
    """ " (was A, is B)", of the first entry that differs in tables; "" for what says nothing to
    people, such as digests."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        name = first_change(then, now) or ""
        return f" ({name} was {then.get(name)!r}, is {now.get(name)!r})"
    return f" (was {then}, is {now})" if isinstance(then, int) else ""
