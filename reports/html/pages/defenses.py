"""Defenses: what each saves, against an attacker who does not know it and against one who does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.results.records import Board, BoardCell
from bench.results.resampling import Request, estimates
from bench.results.stats import UNDEFINED, Estimate
from reports import numbers
from reports.html.fields import Entry, Field, Link, estimate_field
from reports.html.links import cell_page
from reports.html.sections import Section, SectionPage

_COLUMNS = (
    ("Defense", False),
    ("Clean saving", True),
    ("Saved, not known", True),
    ("Saved, known", True),
    ("Gain, known", True),
    ("Clean accuracy", True),
    ("Accuracy attacked", True),
    ("Flags", False),
)
_TIME = ("Time", True)

SLIGHT = 0.005
"""Savings that differ by half a point or less count as the same."""

_WORDS = {
    "harm": "does harm: who knows it makes the network dearer than without it",
    "falls": "falls to an attacker who knows it",
    ("most"): (
        "falls for the most part: who knows it takes back more than half of what it keeps from "
        "one who does not"
    ),
    "holds": "holds against these attacks: more is saved than without it, known or not",
    "nothing": "changes nothing that these images could show",
    "lacks": (
        "not judged, since attacks came to no end or were not run behind it or without a defense"
    ),
}
_SHORT = {
    "harm": "does harm",
    "falls": "falls",
    "most": "falls for the most part",
    "holds": "holds",
    "nothing": "no difference",
    "lacks": "not judged",
}


def defenses_page(board: Board) -> SectionPage | None:
    """The page of a board with defenses; None for others, and where nothing is ranked."""
    cells = [cell for cell in board.cells if cell.status == "ok"]
    targets = list(dict.fromkeys(cell.target for cell in cells if cell.defense))
    if not targets or not board.ranked:
        return None
    lacks = {(one.target, one.defense): one.lacks for one in board.standings}
    groups = {
        name: _defended([cell for cell in cells if cell.target == name], lacks) for name in targets
    }
    times = {
        (one.target, one.defense): one.ratio
        for one in (board.latency.entries if board.latency else ())
    }
    return SectionPage(
        path="defenses.html",
        title="Defenses",
        lead=(
            "What is saved, of everything that the undefended network could execute: on clean "
            "images, under the strongest attack that knows the network but not the defense, and "
            "under the strongest that knows both. A defense is worth what the last number says, "
            "and its gain is that number less the one without a defense, image by image; half a "
            "point counts as nothing. Costs of the defense itself are in all of them."
        ),
        sections=[
            _glance(groups),
            *(_section(name, found, times) for name, found in groups.items()),
        ],
        teaser="each defense, attacked without and with knowledge of it",
    )


@dataclass(frozen=True)
class _Defended:
    """One target behind one defense ("" for none): all its cells, and the strongest without and
    with knowledge of the defense.

    Attributes:
        gain: surviving saving less the undefended target's, image by image, known.
        gain_unknown: the same under attacks that do not know the defense.
        lacks: attacks that others had to stand, and this one or the undefended target had not: then
            nothing is gained or lost that could be told.
    """

    defense: str
    cells: Sequence[BoardCell]
    past: BoardCell | None
    knowing: BoardCell | None
    gain: Estimate = UNDEFINED
    gain_unknown: Estimate = UNDEFINED
    lacks: Sequence[str] = ()

    @property
    def shown(self) -> BoardCell | None:
        return self.knowing or self.past

    @property
    def verdict(self) -> str:
        """A key of `_WORDS`, "" where there is nothing to say; the intervals decide, and
        differences of half a point count.
        """
        known, unknown = self.gain, self.gain_unknown
        if self.defense and self.lacks:
            return "lacks"
        if known.value is None or known.low is None or known.high is None:
            return ""
        helped = unknown.low is not None and unknown.low > 0 and (unknown.value or 0.0) > SLIGHT
        if known.high < 0 and known.value < -SLIGHT:
            return "harm"
        if known.low <= 0 or known.value <= SLIGHT:
            return "falls" if helped else "nothing"
        return "most" if helped and known.value < (unknown.value or 0.0) / 2 else "holds"


def _defended(
    cells: Sequence[BoardCell], lacks: Mapping[tuple[str, str], Sequence[str]]
) -> list[_Defended]:
    """A target behind each of its defenses, none first.

    Args:
        cells: of the target, with numbers.
        lacks: attacks that each target and defense did not have to stand.
    """
    labels = sorted(dict.fromkeys(cell.defense for cell in cells), key=bool)
    found = [
        _strongest(label, [cell for cell in cells if cell.defense == label]) for label in labels
    ]
    bare = found[0].knowing if found and not found[0].defense else None
    target = cells[0].target
    return [
        _against(
            bare,
            one,
            [
                *lacks.get((target, one.defense), ()),
                *lacks.get((target, ""), ()),
                *_alone(bare, one.cells),
            ],
        )
        for one in found
    ]


def _alone(bare: BoardCell | None, cells: Sequence[BoardCell]) -> list[str]:
    """The attack that the undefended target falls to, where it has no numbers behind the defense:
    what the defense keeps from others is no gain over what that one takes."""
    if bare is None or bare.attack in {cell.attack for cell in cells if cell.status == "ok"}:
        return []
    return [bare.attack]


def _against(bare: BoardCell | None, one: _Defended, lacks: Sequence[str]) -> _Defended:
    """A defense with what it gains, where both sides had to stand the same attacks."""
    if not one.defense:
        return one
    if lacks:
        return replace(one, lacks=tuple(dict.fromkeys(lacks)))
    return replace(one, gain=_gain(bare, one.knowing), gain_unknown=_gain(bare, one.past))


def _strongest(defense: str, cells: Sequence[BoardCell]) -> _Defended:
    def least(past: bool) -> BoardCell | None:
        chosen = [
            cell
            for cell in cells
            if (cell.sees == "network") == past
            and not cell.control
            and cell.surviving_saving.value is not None
        ]
        return min(chosen, key=lambda cell: cell.surviving_saving.value or 0.0, default=None)

    return _Defended(defense, cells, least(True), least(False))


def _gain(bare: BoardCell | None, cell: BoardCell | None) -> Estimate:
    """How much more is saved than without a defense, paired by image."""
    if bare is None or cell is None or not bare.reference or not cell.reference:
        return UNDEFINED
    before, now = bare.table(), cell.table()
    attacked = (before["adversarial_macs"] / bare.reference).tolist()
    without = dict(zip(before.ids, attacked, strict=True))
    behind = (now["adversarial_macs"] / cell.reference).tolist()
    found = [
        without[name] - one for name, one in zip(now.ids, behind, strict=True) if name in without
    ]
    return estimates([Request({"gain": np.array(found)})])[0]["gain"]


def _glance(groups: Mapping[str, Sequence[_Defended]]) -> Section:
    """Defenses by targets: what is saved from an attacker who knows, and what that says."""
    labels = list(dict.fromkeys(one.defense for found in groups.values() for one in found))
    rows: list[list[Entry]] = []
    for label in labels:
        row: list[Entry] = [Field(label or "none")]
        for found in groups.values():
            one = next((one for one in found if one.defense == label), None)
            saved = one.knowing.surviving_saving if one and one.knowing else UNDEFINED
            row.append(
                Field(
                    numbers.percent(saved.value),
                    _SHORT.get(one.verdict, "") if one else "",
                    saved.value,
                )
            )
        rows.append(row)
    return Section(
        "At a glance",
        "Saved from the strongest attack that knows the defense.",
        (("Defense", False), *((name, True) for name in groups)),
        rows,
    )


def _section(
    name: str, found: Sequence[_Defended], times: Mapping[tuple[str, str], float | None]
) -> Section:
    timed = any(target == name for target, _ in times)
    rows: list[list[Entry]] = []
    for one in found:
        if one.shown is None:
            continue
        accuracy = min((cell.adversarial_accuracy.value or 0.0 for cell in one.cells), default=0.0)
        flags = dict.fromkeys(flag for cell in one.cells if not cell.control for flag in cell.flags)
        row: list[Entry] = [
            Field(one.defense or "none"),
            estimate_field(one.shown.clean_saving),
            _attacked(one.past),
            _attacked(one.knowing),
            _points(one.gain),
            estimate_field(one.shown.clean_accuracy),
            Field(numbers.percent(accuracy), sort=accuracy),
            Field(", ".join(flags) or "none"),
        ]
        if timed:
            ratio = times.get((name, one.defense))
            row.append(Field(numbers.DASH if ratio is None else f"× {ratio:.2f}", sort=ratio))
        rows.append(row)
    note = (
        "Time: of one clean image on one thread, as a multiple of the undefended network's, "
        "measured side by side."
        if timed
        else ""
    )
    return Section(
        name, note, (*_COLUMNS, _TIME) if timed else _COLUMNS, rows, points=list(_said(found))
    )


def _attacked(cell: BoardCell | None) -> Entry:
    if cell is None:
        return Field(numbers.DASH)
    shown = estimate_field(cell.surviving_saving)
    return Link(shown.text, cell_page(cell), f"{shown.below} {cell.attack}".strip())


def _points(gain: Estimate) -> Field:
    if gain.value is None:
        return Field(numbers.DASH)
    value, low, high = (
        numbers.signed(100 * (end or 0.0)) for end in (gain.value, gain.low, gain.high)
    )
    return Field(f"{value} points", f"[{low}, {high}]", gain.value)


def _said(found: Sequence[_Defended]) -> Iterator[str]:
    """What became of each defense, in one sentence."""
    bare = next((one.knowing for one in found if not one.defense), None)
    for one in found:
        if one.verdict == "lacks":
            yield f"{one.defense}: {_WORDS['lacks']}: {', '.join(one.lacks)}"
            continue
        if not one.verdict or bare is None or one.knowing is None:
            continue
        unaware = (
            f", {numbers.percent(one.past.surviving_saving.value)} from one who does not"
            if one.past
            else ""
        )
        text = (
            f"{one.defense}: {_WORDS[one.verdict]} "
            f"({numbers.percent(one.knowing.surviving_saving.value)} saved from one who "
            f"knows it{unaware}; {numbers.percent(bare.surviving_saving.value)} without "
            "defense)"
        )
        before, now = bare.clean_accuracy, one.knowing.clean_accuracy
        if now.high is not None and now.high < (before.value or 0.0):
            text += (
                f"; clean accuracy falls from {numbers.percent(before.value)} to "
                f"{numbers.percent(now.value)}"
            )
        yield text
