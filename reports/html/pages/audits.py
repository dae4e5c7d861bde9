"""Audits: magnitude against optimiser, gates that flip back, the contrast map's own share, and
gates that nothing opens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from bench.results.records import Board, BoardCell
from reports import numbers
from reports.html.fields import Entry, Field, Link, estimate_field, psnr_field
from reports.html.links import cell_page
from reports.html.sections import Section, SectionPage

_MOST_UNITS = 40
"""Units listed one by one, at most."""


def audits_page(board: Board) -> SectionPage | None:
    """The page of a board whose plan asks for audits; None for others."""
    if not board.plan.get("pages", {}).get("audits"):
        return None
    cells = [
        cell for cell in board.cells if cell.status == "ok" and cell.recovery.value is not None
    ]
    return SectionPage(
        path="audits.html",
        title="Audits of GradAuto",
        lead=(
            "Four questions that the published tables leave open, answered from the cells of "
            "this board. The numbers are those of these networks."
        ),
        sections=[_magnitude(cells), _flips(cells), _contrast(cells), _closed(board.cells)],
        teaser=(
            "how much of RM is the optimiser, gates that flip back, the contrast map's share, "
            "gates that nothing opens"
        ),
    )


def _gradauto(cells: Sequence[BoardCell]) -> list[BoardCell]:
    return [
        cell
        for cell in cells
        if cell.inputs["attack"]["name"] == "gradauto" and cell.inputs["attack"]["preset"] != "code"
    ]


def _params(cell: BoardCell) -> dict[str, object]:
    params: dict[str, object] = dict(cell.inputs["attack"]["params"])
    return params


def _without_magnitude(cell: BoardCell) -> tuple[str, str]:
    """What a cell has beside RM, of which K is a part."""
    others = {name: value for name, value in _params(cell).items() if name not in ("rm", "K")}
    return cell.defended, json.dumps(others, sort_keys=True)


def _magnitude(cells: Sequence[BoardCell]) -> Section:
    """With and without RM, where all other parameters agree."""
    plain = {_without_magnitude(cell): cell for cell in _gradauto(cells) if not _params(cell)["rm"]}
    rows: list[list[Entry]] = []
    for cell in _gradauto(cells):
        without = plain.get(_without_magnitude(cell))
        if _params(cell)["rm"] and without is not None:
            optimiser, lr, rd = (str(_params(cell)[name]) for name in ("optimiser", "lr", "rd"))
            gain = (cell.recovery.value or 0) - (without.recovery.value or 0)
            rows.append(
                [
                    Field(f"{optimiser}, lr {lr}", below=cell.defended),
                    Field("with RD" if rd == "True" else "without RD"),
                    _linked(without),
                    psnr_field(without),
                    _linked(cell),
                    psnr_field(cell),
                    Field(f"{numbers.signed(100 * gain)} points", sort=gain),
                ]
            )
    return Section(
        "How much of RM's gain remains under other optimisers",
        "RM gives every complexity gradient the length K. Adam rescales each value by its own "
        "history, and normalised descent throws "
        "lengths away: "
        "if RM is about length, it should matter under plain SGD and little under the other two.",
        (
            ("Optimiser", False),
            ("", False),
            ("Without RM", True),
            ("PSNR", True),
            ("With RM", True),
            ("PSNR", True),
            ("Gain", True),
        ),
        rows,
    )


def _linked(cell: BoardCell) -> Link:
    shown = estimate_field(cell.recovery)
    return Link(shown.text, cell_page(cell), shown.below)


def _flips(cells: Sequence[BoardCell]) -> Section:
    rows: list[list[Entry]] = []
    for cell in sorted(
        _gradauto(cells),
        key=lambda cell: (cell.target, str(_params(cell)["optimiser"]), str(_params(cell)["lr"])),
    ):
        if cell.flip_rate is not None:
            params = _params(cell)
            rules = (
                "RM and RD"
                if params["rm"] and params["rd"]
                else "RM"
                if params["rm"]
                else "RD"
                if params["rd"]
                else "neither"
            )
            rows.append(
                [
                    Link(
                        f"{params['optimiser']}, lr {params['lr']}",
                        cell_page(cell),
                        below=cell.defended,
                    ),
                    Field(rules),
                    Field(numbers.percent(cell.flip_rate, 2), sort=cell.flip_rate),
                    estimate_field(cell.recovery),
                ]
            )
    return Section(
        "Open gates that flip back",
        "Of all gates open at one evaluation of the attack, the share found closed at the next. "
        "RD is meant to keep them open.",
        (("Optimiser", False), ("Rectified", False), ("Flip back", True), ("Recovery", True)),
        rows,
    )


def _contrast(cells: Sequence[BoardCell]) -> Section:
    rows: list[list[Entry]] = []
    for cell in cells:
        attack = cell.inputs["attack"]
        if attack["name"] == "contrast" or attack["preset"] == "code":
            rows.append(
                [
                    Link(cell.attack, cell_page(cell), below=cell.defended),
                    estimate_field(cell.recovery),
                    psnr_field(cell),
                    Field(numbers.percent(cell.agreement.value)),
                ]
            )
    return Section(
        "What the contrast map alone explains",
        "The released code starts from a stretched image. The control is that stretch without any "
        "perturbation; the difference to the "
        "attack "
        "as released is what the optimisation adds.",
        (("Row", False), ("Recovery", True), ("PSNR", True), ("Prediction kept", True)),
        rows,
    )


def _closed(cells: Sequence[BoardCell]) -> Section:
    """Units that ran on no clean and no adversarial image of any cell on their target."""
    rows: list[list[Entry]] = []
    groups: dict[str, list[BoardCell]] = {}
    for cell in cells:
        if cell.status == "ok":
            groups.setdefault(cell.defended, []).append(cell)
    for name, members in groups.items():
        clean = np.zeros(len(members[0].units), dtype=bool)
        attacked = clean.copy()
        images = 0
        for cell in members:
            table = cell.table()
            clean |= table.clean_decisions.any(0)
            attacked |= table.adversarial_decisions.any(0)
            images += len(table)
        never, only = ~(clean | attacked), attacked & ~clean
        units = members[0].units
        rows.append(
            [
                Field(name),
                Field(str(len(units))),
                Field(str(int(never.sum())), _named([units[i].name for i in never.nonzero()[0]])),
                Field(
                    numbers.percent(
                        sum(units[i].cost for i in never.nonzero()[0])
                        / max(members[0].ceiling or 1, 1)
                    )
                ),
                Field(str(int(only.sum())), _named([units[i].name for i in only.nonzero()[0]])),
                Field(f"{members[0].n} natural, {images} attacked"),
            ]
        )
    return Section(
        "Gates that nothing ever opens",
        "Recovery divides by the ceiling, with every unit on. A unit that no natural image of "
        "this board and no attack on it ever "
        "opened may be out "
        "of reach altogether, and then no attack can reach 100 %. Absence over so many images is "
        "evidence, not proof.",
        (
            ("Target", False),
            ("Units", True),
            ("Never open", True),
            ("Their share of the ceiling", True),
            ("Open under attack only", True),
            ("Images", False),
        ),
        rows,
    )


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_UNITS]) + (
        f" and {len(names) - _MOST_UNITS} more" if len(names) > _MOST_UNITS else ""
    )
