"""What the index page of a board says: the answers at a glance, the standings, the leaderboard, how
to read and repeat it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bench.contracts.threat import PSNR_CAP
from bench.results.headroom import HeadroomEntry
from bench.results.records import Board, BoardCell, TargetStanding
from bench.terminal import counted
from reports import numbers
from reports.answers import answers, sentence, summary
from reports.html.charts import FrontPoint
from reports.html.encode import clean_tree, split_links
from reports.html.fields import Field, estimate_field, psnr_field
from reports.html.links import pages, row_name
from reports.order import board_order
from reports.vocabulary import COLUMNS, STATUSES, WIDE_HEADROOM, threat_words


@dataclass(frozen=True)
class Row:
    """A cell of the leaderboard; `name` is the anchor of its row, `page` leads to more of it."""

    name: str
    page: str
    ok: bool
    status: str
    reason: str
    control: bool
    target: str
    defense: str
    attack: str
    flags: tuple[str, ...]
    fields: Mapping[str, Field]


@dataclass(frozen=True)
class Standing:
    """A target of the board; `defended` is its name among the rows, the two widths draw clean and
    surviving saving, in thousandths of the bar.
    """

    rank: str
    defended: str
    name: str
    defense: str
    strongest: str
    page: str | None
    fields: Mapping[str, Field]
    clean_width: int
    surviving_width: int


def leaderboard_row(cell: BoardCell, name: str, page: str) -> Row:
    """A cell as a row; cells that are not ok carry no numbers."""
    fields = {
        "rank": Field(
            numbers.DASH if cell.attack_rank is None else str(cell.attack_rank),
            sort=cell.attack_rank,
        )
    }
    fields["target"] = Field(
        cell.target,
        below=f"with {cell.defense}" if cell.defense else "",
        sort=cell.defended,
    )
    fields["attack"] = Field(
        cell.attack,
        below=f"submitted by {cell.submission.who}" if cell.submission else "",
        sort=cell.attack,
    )
    if cell.status == "ok":
        for key in (
            "recovery",
            "float_recovery",
            "jpeg_recovery",
            "surviving_saving",
            "adversarial_accuracy",
        ):
            fields[key] = estimate_field(getattr(cell, key))
        fields["adversarial_macs"] = Field(
            numbers.macs(cell.adversarial_macs),
            f"clean {numbers.macs(cell.clean_macs)}",
            cell.adversarial_macs,
        )
        fields["psnr"] = psnr_field(cell)
        fields["ssim"] = Field(numbers.plain(cell.ssim, 3), sort=cell.ssim)
        fields["evaluations"] = Field(
            numbers.plain(cell.evaluations), _budget(cell), cell.evaluations
        )
    return Row(
        name=name,
        page=page,
        ok=cell.status == "ok",
        status=cell.status,
        reason=cell.reason or STATUSES.get(cell.status, ""),
        control=cell.control,
        target=cell.target,
        defense=cell.defense,
        attack=cell.attack,
        flags=cell.flags,
        fields=fields,
    )


def _budget(cell: BoardCell) -> str:
    """What the evaluations do not tell: the budget of an ensemble, the price of a fit."""
    if cell.combination:
        return (
            f"budget {numbers.plain(cell.combination['budget'])}: "
            f"{len(cell.combination['members'])} members"
        )
    if cell.fit:
        return f"fit: {numbers.plain(cell.fit['evaluations'])} on {cell.fit['images']} other images"
    return ""


def standing_row(
    standing: TargetStanding,
    pages: Mapping[tuple[str, str, str], str],
    cell: BoardCell | None = None,
) -> Standing:
    """A standing as a row of the first table; `cell` is that of the strongest attack, whose PSNR is
    shown as in the leaderboard.
    """
    shares = (
        "surviving_saving",
        "clean_saving",
        "clean_accuracy",
        "adversarial_accuracy",
        "recovery",
    )
    fields = {name: estimate_field(getattr(standing, name)) for name in shares}
    fields["headroom"] = headroom_field(standing.headroom)
    fields["psnr"] = (
        Field(numbers.decibel(standing.psnr), sort=standing.psnr)
        if cell is None
        else psnr_field(cell)
    )
    return Standing(
        rank=numbers.DASH if standing.rank is None else str(standing.rank),
        defended=standing.defended,
        name=standing.target,
        defense=standing.defense,
        strongest=standing.strongest or "",
        page=pages.get((standing.target, standing.defense, standing.strongest or "")),
        fields=fields,
        clean_width=_width(standing.clean_saving.value),
        surviving_width=_width(standing.surviving_saving.value),
    )


def headroom_field(found: HeadroomEntry | None) -> Field:
    """What a multiple of the budget adds to the recovery, and on what that was measured."""
    if found is None:
        return Field("not measured")
    return Field(
        numbers.points(found.added),
        f"{found.times} × the budget, {counted(found.images, 'image')}",
        found.gain,
    )


def _width(share: float | None) -> int:
    return round(1000 * min(1.0, max(0.0, share or 0.0)))


def front_points(cells: tuple[BoardCell, ...], *, marked: str = "") -> list[FrontPoint]:
    """Cells with a recovery and a finite PSNR; the one whose key is `marked` gets a ring."""
    return [
        FrontPoint(
            target=cell.defended,
            attack=cell.attack,
            control=cell.control,
            psnr=seen,
            recovery=cell.recovery.value,
            low=cell.recovery.low,
            high=cell.recovery.high,
            marked=bool(marked) and cell.key == marked,
        )
        for cell in cells
        if cell.status == "ok"
        and (seen := cell.overall_psnr) is not None
        and seen < PSNR_CAP
        and cell.recovery.value is not None
    ]


def protocol_facts(board: Board) -> list[tuple[str, str]]:
    """The protocol as (word, value) pairs: the threat in words, the rest as it stands."""
    facts = []
    for key, value in sorted(board.protocol.items()):
        shown = (
            threat_words(value)
            if key == "threat"
            else document(value, indent=None)
            if isinstance(value, list | tuple | Mapping)
            else str(value)
        )
        facts.append((str(key), shown))
    return facts


def document(value: Any, *, indent: int | None = 2) -> str:
    """A resolved document as text."""
    return json.dumps(clean_tree(value), indent=indent, ensure_ascii=False, sort_keys=True)


def own_plan(board: Board) -> Mapping[str, Any]:
    """The resolved plan as far as it is about the cells of this board; members of ensembles by
    their labels.
    """
    boards, shown = board.plan.get("boards", ()), {cell.key for cell in board.cells}
    own = [
        _shortened(one, shown)
        for one in boards
        if isinstance(one, Mapping) and one.get("protocol") == board.protocol
    ]
    return {**board.plan, "boards": own} if own else board.plan


_LONGEST_PLAN = 300_000
"""Characters of a plan that are put on a page; a longer one stays in the run's folder."""


def plan_text(board: Board) -> str:
    """The resolved plan as far as it is about this board, or where it lies."""
    text = document(own_plan(board), indent=1)
    if len(text) <= _LONGEST_PLAN:
        return text
    return f"{counted(len(text), 'character')}: see plan.json in the folder of the run"


def _shortened(value: Any, shown: Collection[str]) -> Any:
    if isinstance(value, Mapping):
        if isinstance(value.get("cells"), list):
            value = {
                **value,
                "cells": [
                    cell
                    for cell in value["cells"]
                    if not isinstance(cell, Mapping) or cell.get("key") in shown
                ],
            }
        members = {
            key: [one.get("label") for one in part]
            for key, part in value.items()
            if key == "members" and isinstance(part, list)
        }
        return {key: _shortened(part, shown) for key, part in value.items()} | members
    return [_shortened(part, shown) for part in value] if isinstance(value, list) else value


def board_view(board: Board, places: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Everything that the template of the index needs, but for the chart.

    Args:
        board: what is shown.
        places: key -> where a row leads to, "" for nowhere; by default the page of the cell.
    """
    anchors = {key: row_name(page) for key, page in pages(board).items()}
    places = pages(board) if places is None else places
    by_names = {(cell.target, cell.defense, cell.attack): places[cell.key] for cell in board.cells}
    strongest = {(cell.target, cell.defense, cell.attack): cell for cell in board.cells}
    rows = [
        leaderboard_row(cell, anchors[cell.key], places[cell.key]) for cell in board_order(board)
    ]
    drawn = {point.attack for point in front_points(board.cells)}
    measured = [cell for cell in board.cells if cell.status == "ok" and cell.attack not in drawn]
    unchanged = sorted({cell.attack for cell in measured if (cell.overall_psnr or 0) >= PSNR_CAP})
    return {
        "title": board.name,
        "summary": summary(board),
        "answers": answers(board),
        "standings": [
            standing_row(
                one, by_names, strongest.get((one.target, one.defense, one.strongest or ""))
            )
            for one in board.standings
        ],
        "unconverged": [
            one.defended
            for one in board.standings
            if one.headroom is not None and (one.headroom.low or 0) > WIDE_HEADROOM
        ],
        "columns": COLUMNS,
        "rows": rows,
        "troubles": sum(1 for row in rows if row.status not in ("ok", "skipped")),
        "targets": list(dict.fromkeys(row.fields["target"].sort for row in rows)),
        "unchanged": unchanged,
        "intervals": sentence(board.intervals),
        "facts": protocol_facts(board),
        "plan": plan_text(board),
        "credits": [split_links(line) for line in board.credits],
    }
