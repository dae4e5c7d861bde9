"""Changes between two runs as people read them: signed MACs, points with their interval, p."""

from __future__ import annotations

from bench.regression.compare import Change, Difference
from bench.results.records import defended_name
from reports import numbers

LEGEND = (
    "Second run less first, image by image: positive is dearer. MACs: mean change; points: of the "
    "undefended ceiling, so the saving that "
    "was lost; accuracy in points; 95 % intervals, paired bootstrap; p: two-sided, paired sign "
    "flips, Holm over the cells."
)


def target_name(change: Change) -> str:
    """The target with its defense, and its board where there are several."""
    name = defended_name(change.target, change.defense)
    return f"{name} ({change.terms})" if change.terms else name


def points(difference: Difference, places: int = 1) -> str:
    """A change in points with its interval; a dash where no image changed."""
    if difference.value == difference.low == difference.high == 0:
        return numbers.DASH
    value, low, high = (
        numbers.signed(100 * (end or 0.0), places)
        for end in (difference.value, difference.low, difference.high)
    )
    return f"{value} [{low}, {high}]"


def p_value(difference: Difference) -> str:
    """p to two digits; a dash where no image changed."""
    return (
        numbers.DASH
        if difference.value == difference.low == difference.high == 0
        else f"{difference.p:.2g}"
    )


def mean_macs(value: float) -> str:
    """A mean change of MACs with its sign."""
    return (
        numbers.DASH
        if value == 0
        else f"{'+' if value > 0 else chr(0x2212)}{numbers.macs(abs(value))}"
    )


def counts(change: Change) -> list[str]:
    """Images, dearer ones, cheaper ones."""
    return [str(len(change.ids)), str(change.dearer), str(change.cheaper)]


def attacked(change: Change) -> list[str]:
    """Change of MACs, in points, p, accuracy, its p: of the attacked images."""
    return [
        mean_macs(change.macs),
        points(change.cost),
        p_value(change.cost),
        points(change.accuracy),
        p_value(change.accuracy),
    ]


def clean_images(change: Change) -> list[str]:
    """The same of the clean images, which the attacks on one target share."""
    macs = float((change.clean_now - change.clean_before).mean())
    found = change.clean_cost, change.clean_accuracy
    return [
        mean_macs(macs),
        points(found[0]),
        p_value(found[0]),
        points(found[1]),
        p_value(found[1]),
    ]
