"""What the index page of a board says: the answers at a glance, the standings, the leaderboard, how to read and repeat it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bench.results.records import Board, BoardCell, TargetStanding
from bench.results.stats import Estimate
from reports import numbers
from reports.charts import FrontPoint
from reports.encode import clean_tree, split_links
from reports.vocabulary import COLUMNS, STATUSES, threat_words


@dataclass(frozen=True)
class Field:
    """One entry of a row: what is shown, what stands small below it, what it sorts by (None sorts last)."""

    text: str
    below: str = ""
    sort: float | str | None = None


@dataclass(frozen=True)
class Row:
    """A cell of the leaderboard."""

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
    """A target of the board; the two widths draw clean and surviving saving, in thousandths of the bar."""

    rank: str
    name: str
    defense: str
    strongest: str
    page: str | None
    fields: Mapping[str, Field]
    clean_width: int
    surviving_width: int


@dataclass(frozen=True)
class Answer:
    """One of the three questions that the page answers first."""

    question: str
    answer: str
    detail: str


def cell_page(cell: BoardCell) -> str:
    """Where a cell's page lies, from the index."""
    return f"cells/{page_of(cell.key)}"


def page_of(key: str) -> str:
    """The file of the page of the cell of this key; letters and digits only, whatever the key is."""
    return f"{''.join(c for c in key if c.isascii() and c.isalnum())[:12] or 'cell'}.html"


def target_name(target: str, defense: str) -> str:
    """The target with its defence, in one string."""
    return f"{target} + {defense}" if defense else target


def leaderboard_row(cell: BoardCell, page: str) -> Row:
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
        sort=target_name(cell.target, cell.defense),
    )
    fields["attack"] = Field(cell.attack, sort=cell.attack)
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
        return f"budget {numbers.plain(cell.combination['budget'])}: {len(cell.combination['members'])} members"
    if cell.fit:
        return f"fit: {numbers.plain(cell.fit['evaluations'])} on {cell.fit['images']} other images"
    return ""


def estimate_field(estimate: Estimate) -> Field:
    """A share with its interval below."""
    return Field(numbers.percent(estimate.value), numbers.interval(estimate), estimate.value)


def psnr_field(cell: BoardCell) -> Field:
    """The pooled PSNR, with the mean of the images below it where the two differ visibly."""
    pooled, mean = visibility(cell), cell.psnr
    apart = pooled is not None and mean is not None and abs(pooled - mean) >= 0.1
    return Field(numbers.decibel(pooled), f"mean {numbers.decibel(mean)}" if apart else "", pooled)


def standing_row(
    standing: TargetStanding,
    pages: Mapping[tuple[str, str, str], str],
    cell: BoardCell | None = None,
) -> Standing:
    """A standing as a row of the first table; `cell` is that of the strongest attack, whose PSNR is shown as in the leaderboard."""
    shares = (
        "surviving_saving",
        "clean_saving",
        "clean_accuracy",
        "adversarial_accuracy",
        "recovery",
    )
    fields = {name: estimate_field(getattr(standing, name)) for name in shares}
    fields["psnr"] = (
        Field(numbers.decibel(standing.psnr), sort=standing.psnr)
        if cell is None
        else psnr_field(cell)
    )
    return Standing(
        rank=numbers.DASH if standing.rank is None else str(standing.rank),
        name=standing.target,
        defense=standing.defense,
        strongest=standing.strongest or "",
        page=pages.get((standing.target, standing.defense, standing.strongest or "")),
        fields=fields,
        clean_width=_width(standing.clean_saving.value),
        surviving_width=_width(standing.surviving_saving.value),
    )


def _width(share: float | None) -> int:
    return round(1000 * min(1.0, max(0.0, share or 0.0)))


_LISTED = 3
"""Targets named that share the first place."""


def answers(board: Board) -> list[Answer]:
    """Who is most robust, which attack is strongest, at what visible price."""
    return [_most_robust(board), _strongest(board), _price(board)]


def _most_robust(board: Board) -> Answer:
    question = "Most robust target"
    placed = [
        standing for standing in board.standings if standing.surviving_saving.value is not None
    ]
    first = [standing for standing in placed if standing.rank == 1] or placed[:1]
    if not first:
        return Answer(question, numbers.DASH, "No target has a finished attack yet.")
    if all(standing.rank is None for standing in placed) and len(placed) > 1:
        return Answer(
            question,
            "not ranked",
            "This board ranks nothing; the standings below show each target under its strongest attack.",
        )
    best = first[0]
    listed = [target_name(standing.target, standing.defense) for standing in first]
    names = ", ".join(listed[:_LISTED]) + (
        f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    )
    detail = (
        f"keeps {numbers.share(best.surviving_saving)} of its ceiling saved under {best.strongest or 'attack'}; "
        f"on clean images it saves {numbers.percent(best.clean_saving.value)}"
    )
    if len(first) > 1:
        detail = f"share the first place: their difference is not significant. The first {detail}"
    return Answer(question, names, detail + ".")


def attack_cells(board: Board) -> list[BoardCell]:
    """Finished cells of attacks proper, with a recovery; ensembles, whose budget is another, are not among them."""
    return [
        cell
        for cell in board.cells
        if cell.status == "ok"
        and not cell.control
        and not cell.combination
        and cell.recovery.value is not None
    ]


def _strongest(board: Board) -> Answer:
    question = "Strongest attack"
    attacks = attack_cells(board)
    if not attacks:
        return Answer(question, numbers.DASH, "No attack has finished with a defined recovery.")
    if not board.ranked:
        return Answer(
            question,
            "not ranked",
            "Without a bound on the change, attacks differ in price as well as in strength: see the front below.",
        )
    if not any((cell.recovery.low or 0) > 0 for cell in attacks):
        return Answer(question, numbers.DASH, "No attack won back significantly more than nothing.")
    name = strongest_attack(board)
    targets = {(cell.target, cell.defense) for cell in attacks}
    first = [cell for cell in attacks if cell.attack_rank == 1]
    wins = len({(cell.target, cell.defense) for cell in first if cell.attack == name})
    shared = sorted({cell.attack for cell in first if cell.attack != name})
    recoveries = sorted(
        cell.recovery.value
        for cell in attacks
        if cell.attack == name and cell.recovery.value is not None
    )
    span = numbers.percent(recoveries[0])
    if len(recoveries) > 1:
        span += f" to {numbers.percent(recoveries[-1])}"
    detail = f"in first place on {wins} of {len(targets)} targets; wins back {span} of the MACs that had been saved."
    if shared:
        detail += f" Also in a first place: {', '.join(shared)}."
    return Answer(question, name, detail)


def strongest_attack(board: Board) -> str:
    """The attack that is in first place on most targets; the mean recovery decides a tie, then the order of the plan."""
    attacks = attack_cells(board)
    wins = Counter(cell.attack for cell in attacks if cell.attack_rank == 1)
    recoveries: dict[str, list[float]] = {}
    for cell in attacks:
        recoveries.setdefault(cell.attack, []).append(cell.recovery.value or 0.0)
    return max(
        recoveries, key=lambda name: (wins[name], sum(recoveries[name]) / len(recoveries[name]))
    )


def _price(board: Board) -> Answer:
    question = "At what visible price"
    attacks = attack_cells(board)
    if not attacks:
        return Answer(question, numbers.DASH, "Nothing to measure yet.")
    if board.ranked:
        name = strongest_attack(board)
        chosen = [cell for cell in attacks if cell.attack == name]
        lead = f"{name}: "
    else:
        chosen = attacks
        lead = "over all attacks: "
    values = sorted(value for cell in chosen if (value := visibility(cell)) is not None)
    similar = sorted(cell.ssim for cell in chosen if cell.ssim is not None)
    if not values:
        return Answer(question, numbers.DASH, "No distortion was measured.")
    span = numbers.decibel(values[0])
    error = numbers.levels(values[0])
    if len(values) > 1 and numbers.decibel(values[-1]) != span:
        span += f" to {numbers.decibel(values[-1])}"
        error += f" to {numbers.levels(values[-1])}"
    detail = f"{lead}an error of {error} of 255 grey levels (root mean square)"
    if similar:
        low, high = numbers.plain(similar[0], 2), numbers.plain(similar[-1], 2)
        detail += f", SSIM {low}" + (f" to {high}" if high != low else "")
    return Answer(question, span, detail + ".")


def visibility(cell: BoardCell) -> float | None:
    """PSNR of the mean squared error, which unchanged images cannot lift to infinity; the mean PSNR where there is none."""
    return cell.psnr if cell.pooled_psnr is None else cell.pooled_psnr


def sentence(text: str) -> str:
    """The text with a full stop."""
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def front_points(cells: tuple[BoardCell, ...], *, marked: str = "") -> list[FrontPoint]:
    """Cells that have both a recovery and a finite PSNR; the one whose key is `marked` gets a ring."""
    return [
        FrontPoint(
            target=target_name(cell.target, cell.defense),
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
        and (seen := visibility(cell)) is not None
        and seen < numbers.PSNR_CAP
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


def summary(board: Board) -> str:
    """The protocol in one line, for the head of the page."""
    images = board.protocol.get("images")
    parts = [board.dataset]
    if isinstance(images, int):
        parts.append(f"{images} images")
    if "threat" in board.protocol:
        parts.append(threat_words(board.protocol["threat"]))
    if "budget" in board.protocol:
        parts.append(f"{board.protocol['budget']} forward-equivalents an image")
    return " · ".join(parts)


def document(value: Any, *, indent: int | None = 2) -> str:
    """A resolved document as text."""
    return json.dumps(clean_tree(value), indent=indent, ensure_ascii=False, sort_keys=True)


def pages(board: Board) -> dict[str, str]:
    """Key -> page of every cell; should two keys agree in their first digits, the later one gets a longer name."""
    taken: dict[str, str] = {}
    for index, cell in enumerate(board.cells):
        page = cell_page(cell)
        taken[cell.key] = (
            page if page not in taken.values() else page.replace(".html", f"-{index}.html")
        )
    return taken


def own_plan(board: Board) -> Mapping[str, Any]:
    """The resolved plan as far as it is about the cells of this board; members of ensembles by their labels."""
    boards, shown = board.plan.get("boards", ()), {cell.key for cell in board.cells}
    own = [
        _shortened(one, shown)
        for one in boards
        if isinstance(one, Mapping) and one.get("protocol") == board.protocol
    ]
    return {**board.plan, "boards": own} if own else board.plan


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


def board_view(board: Board, *, linked: bool = True) -> dict[str, Any]:
    """Everything that the template of the index needs, but for the chart; `linked` where every cell has its page."""
    places = pages(board) if linked else dict.fromkeys((cell.key for cell in board.cells), "")
    by_names = {(cell.target, cell.defense, cell.attack): places[cell.key] for cell in board.cells}
    strongest = {(cell.target, cell.defense, cell.attack): cell for cell in board.cells}
    rows = [leaderboard_row(cell, places[cell.key]) for cell in board.cells]
    drawn = {point.attack for point in front_points(board.cells)}
    measured = [cell for cell in board.cells if cell.status == "ok" and cell.attack not in drawn]
    unchanged = sorted(
        {cell.attack for cell in measured if (visibility(cell) or 0) >= numbers.PSNR_CAP}
    )
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
        "columns": COLUMNS,
        "rows": rows,
        "troubles": sum(1 for row in rows if row.status not in ("ok", "skipped")),
        "targets": list(dict.fromkeys(row.fields["target"].sort for row in rows)),
        "unchanged": unchanged,
        "intervals": sentence(board.intervals),
        "facts": protocol_facts(board),
        "plan": document(own_plan(board), indent=1),
        "credits": [split_links(line) for line in board.credits],
    }
