"""Rounding inside the loop beside rounding afterwards: the same attack twice, on every target of
every board that has both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.results.records import Board, BoardCell
from bench.results.resampling import Request, estimates
from bench.results.stats import has_reserve
from bench.terminal import counted
from reports import numbers
from reports.html.fields import Entry, Field, estimate_field
from reports.html.sections import Section, SectionPage
from reports.vocabulary import threat_words


def rounding_page(boards: Sequence[Board]) -> SectionPage | None:
    """The page of several boards; None where no attack was run both ways."""
    sections = [section for board in boards if (section := _section(board)) is not None]
    if not sections:
        return None
    return SectionPage(
        path="rounding.html",
        title="Rounding inside the loop",
        lead=(
            "The same attack at the same budget, with its iterates rounded to 8 bits inside the "
            "loop (and the gradient passed straight through), and with the image rounded once it "
            "was found. Both are scored on the saved image."
        ),
        sections=sections,
        teaser="the same attacks with every iterate rounded, and rounded once at the end",
    )


def _section(board: Board) -> Section | None:
    cells = {
        _identity(cell): cell
        for cell in board.cells
        if cell.status == "ok" and cell.recovery.value is not None
    }
    rows: list[list[Entry]] = []
    for who, inside in cells.items():
        after = cells.get((*who[:-1], "after"))
        if who[-1] == "inside" and after is not None:
            rows.append(
                [
                    Field(inside.defended, below=after.attack),
                    estimate_field(after.recovery),
                    estimate_field(after.float_recovery),
                    estimate_field(inside.recovery),
                    _gain(after, inside),
                ]
            )
    if not rows:
        return None
    columns = (
        ("Target", False),
        ("After", True),
        ("After, before saving", True),
        ("Inside", True),
        ("Inside − after", True),
    )
    note = f"{threat_words(board.protocol['threat'])}; {board.intervals}"
    return Section(
        f"{board.dataset}, {counted(board.protocol['images'], 'image')}, {_short(board)}",
        note,
        columns,
        rows,
    )


def _short(board: Board) -> str:
    threat: Any = board.protocol["threat"]
    return (
        f"PSNR {threat['floor']} dB"
        if isinstance(threat, Mapping) and "floor" in threat
        else threat_words(threat)
    )


def _identity(cell: BoardCell) -> tuple[str, ...]:
    """Whose cell it is and what of, all parameters but the rounding; the rounding last."""
    attack = cell.inputs.get("attack", {})
    if not isinstance(attack, Mapping) or not isinstance(attack.get("params"), Mapping):
        return cell.target, cell.defense, cell.attack, "", ""
    params = dict(attack["params"])
    rounding = str(params.pop("rounding", ""))
    return (
        cell.target,
        cell.defense,
        str(attack.get("name", cell.attack)),
        repr(sorted(params.items())),
        rounding,
    )


def _gain(after: BoardCell, inside: BoardCell) -> Field:
    """The paired difference in points of recovery, with its interval."""
    first, second = after.table(), inside.table()
    clean = first["clean_macs"].astype(np.float64)
    if not has_reserve(clean, after.reference or 0):
        return Field(numbers.DASH)
    reserve = (after.reference or 0) - clean
    gained = second["adversarial_macs"].astype(np.float64) - first["adversarial_macs"]
    found = estimates([Request({}, {"gain": (gained, reserve)})])[0]["gain"]
    if found.value is None:
        return Field(numbers.DASH)
    return Field(
        f"{numbers.signed(100 * found.value)} points", numbers.interval(found), found.value
    )
