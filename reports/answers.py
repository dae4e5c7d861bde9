"""The questions that every form of a board answers first: who is most robust, what is strongest, at
what price.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.results.records import Board, BoardCell, TargetStanding
from bench.terminal import counted
from reports import numbers
from reports.vocabulary import threat_words


@dataclass(frozen=True)
class Answer:
    """One of the three questions that the page answers first."""

    question: str
    answer: str
    detail: str


_LISTED = 3
"""Targets named that share the first place, or that are not ranked, and attacks that they lack."""


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
    lacking = [standing for standing in placed if standing.lacks] if board.ranked else []
    if lacking and len(lacking) == len(placed):
        return Answer(question, "not ranked", f"{_unranked(lacking)}.")
    if all(standing.rank is None for standing in placed) and len(placed) > 1:
        return Answer(
            question,
            "not ranked",
            "This board ranks nothing; the standings below show each target under its strongest "
            "attack.",
        )
    best = first[0]
    listed = [standing.defended for standing in first]
    names = _some(listed)
    detail = (
        f"keeps {numbers.share(best.surviving_saving)} of its ceiling saved under "
        f"{best.strongest or 'attack'}; on clean images it saves "
        f"{numbers.percent(best.clean_saving.value)}"
    )
    if len(first) > 1:
        detail = f"share the first place: their difference is not significant. The first {detail}"
    if lacking:
        detail += f". {_unranked(lacking)}"
    return Answer(question, names, detail + ".")


def _unranked(lacking: Sequence[TargetStanding]) -> str:
    """Which targets are not ranked, and for want of which attacks."""
    listed = [f"{one.defended} ({_some(one.lacks)})" for one in lacking]
    return f"Not ranked, since attacks came to no end there or were not run: {_some(listed)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def attack_cells(board: Board) -> list[BoardCell]:
    """Finished cells of attacks proper, with a recovery; ensembles, whose budget is another, are
    not among them.
    """
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
            "Without a bound on the change, attacks differ in price as well as in strength: see "
            "the front below.",
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
    own = {(cell.target, cell.defense) for cell in attacks if cell.attack == name}
    of_own = f", of which it has numbers on {len(own)}" if own != targets else ""
    detail = (
        f"in first place on {wins} of {counted(len(targets), 'target')}{of_own}; wins back "
        f"{span} of the MACs that "
        "had been saved."
    )
    met = {cell.attack for cell in attacks if (cell.target, cell.defense) in own}
    if apart := list(dict.fromkeys(cell.attack for cell in attacks if cell.attack not in met)):
        detail += f" Not compared with {_some(apart)}: they have no target in common."
    if shared:
        detail += f" Also in a first place: {', '.join(shared)}."
    return Answer(question, name, detail)


def strongest_attack(board: Board) -> str:
    """The attack that is in first place on most targets; the mean recovery decides a tie, then the
    order of the plan.
    """
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
    values = sorted(value for cell in chosen if (value := cell.overall_psnr) is not None)
    similar = sorted(cell.ssim for cell in chosen if cell.ssim is not None)
    if not values:
        return Answer(question, numbers.DASH, "No distortion was measured.")
    span = numbers.decibel(values[0])
    error = numbers.levels(values[0])
    if len(values) > 1 and numbers.decibel(values[-1]) != span:
        span += f" to {numbers.decibel(values[-1])}"
        error += f" to {numbers.levels(values[-1])}"
    detail = f"{lead}an error of {error} of 255 gray levels (root mean square)"
    if similar:
        low, high = numbers.plain(similar[0], 2), numbers.plain(similar[-1], 2)
        detail += f", SSIM {low}" + (f" to {high}" if high != low else "")
    return Answer(question, span, detail + ".")


def sentence(text: str) -> str:
    """The text with a full stop."""
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def summary(board: Board) -> str:
    """The protocol in one line, for the head of the page."""
    images = board.protocol.get("images")
    parts = [board.dataset]
    if isinstance(images, int):
        parts.append(f"{counted(images, 'image')}")
    if "threat" in board.protocol:
        parts.append(threat_words(board.protocol["threat"]))
    if "budget" in board.protocol:
        parts.append(
            f"{board.protocol['budget']} forward-equivalents an image (forward 1, backward 2)"
        )
    return " · ".join(parts)
