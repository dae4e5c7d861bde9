"""Defences: what each saves, against an attacker who does not know it and against one who does."""

from __future__ import annotations

from collections.abc import Sequence

from bench.board import Board, BoardCell
from bench.stats import UNDEFINED, Estimate
from reports import numbers
from reports.board_page import Field, cell_page, estimate_field
from reports.sections import Entry, Link, Section, Sheet

_COLUMNS = (
    ("Defence", False),
    ("Clean saving", True),
    ("Saved, not known", True),
    ("Saved, known", True),
    ("Clean accuracy", True),
    ("Accuracy attacked", True),
    ("Flags", False),
)


def defences_sheet(board: Board) -> Sheet | None:
    """The page of a board with defences; None for others, and where nothing is ranked."""
    cells = [cell for cell in board.cells if cell.status == "ok"]
    targets = list(dict.fromkeys(cell.target for cell in cells if cell.defense))
    if not targets or not board.ranked:
        return None
    groups = {
        name: {defense: [cell for cell in cells if (cell.target, cell.defense) == (name, defense)] for defense in _defenses(cells, name)}
        for name in targets
    }
    return Sheet(
        path="defences.html",
        title="Defences",
        lead="What is saved, of everything that the undefended network could execute: on clean images, under the strongest attack that "
        "knows the network but not the defence, and under the strongest that knows both. A defence is worth what the last number says. "
        "Costs of the defence itself are in all of them.",
        sections=[_section(name, found) for name, found in groups.items()],
        teaser="each defence, attacked without and with knowledge of it",
    )


def _defenses(cells: Sequence[BoardCell], target: str) -> list[str]:
    """Labels, "" for none first."""
    return sorted(dict.fromkeys(cell.defense for cell in cells if cell.target == target), key=bool)


def _section(name: str, found: dict[str, list[BoardCell]]) -> Section:
    bare = _least(found.get("", []), past=False)
    rows: list[list[Entry]] = []
    points: list[str] = []
    for defense, cells in found.items():
        past, knowing = _least(cells, past=True), _least(cells, past=False)
        shown = knowing or past
        if shown is None:
            continue
        accuracy = min((cell.adversarial_accuracy.value or 0.0 for cell in cells), default=0.0)
        rows.append(
            [
                Field(defense or "none"),
                estimate_field(shown.clean_saving),
                _linked(past),
                _linked(knowing),
                estimate_field(shown.clean_accuracy),
                Field(numbers.percent(accuracy), sort=accuracy),
                Field(", ".join(dict.fromkeys(flag for cell in cells if not cell.control for flag in cell.flags)) or "none"),
            ]
        )
        if defense and knowing is not None and bare is not None:
            points.append(_said(defense, bare.surviving_saving, past.surviving_saving if past else UNDEFINED, knowing.surviving_saving))
    return Section(name, "", _COLUMNS, rows, points=points)


def _least(cells: Sequence[BoardCell], *, past: bool) -> BoardCell | None:
    """The cell in which least is saved, of attacks that look past the defence or of all that do not."""
    chosen = [cell for cell in cells if (cell.sees == "network") == past and not cell.control and cell.surviving_saving.value is not None]
    return min(chosen, key=lambda cell: cell.surviving_saving.value or 0.0, default=None)


def _linked(cell: BoardCell | None) -> Entry:
    if cell is None:
        return Field(numbers.DASH)
    shown = estimate_field(cell.surviving_saving)
    return Link(shown.text, cell_page(cell), f"{shown.below} {cell.attack}".strip())


def _said(defense: str, bare: Estimate, past: Estimate, knowing: Estimate) -> str:
    """What became of a defence, in one sentence; the intervals decide the words."""
    saved = numbers.percent(knowing.value)
    if (knowing.low or 0) > (bare.high or 0):
        verdict = "holds: more is saved than without it, whoever attacks"
    elif (knowing.high or 0) < (bare.low or 0):
        verdict = "does harm: who knows it wins back more than without it"
    elif past.low is not None and past.low > (bare.high or 0):
        verdict = "falls to an attacker who knows it"
    else:
        verdict = "changes nothing that these images could show"
    unaware = f", {numbers.percent(past.value)} from one who does not" if past.value is not None else ""
    return f"{defense}: {verdict} ({saved} saved from one who knows it{unaware}; {numbers.percent(bare.value)} without defence)"
