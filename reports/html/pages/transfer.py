"""Transfer: the saved images of each target, and what every other target of the board executes on
them.
"""

from __future__ import annotations

from bench.results.records import Board, Transferred
from reports import numbers
from reports.html.fields import Field, estimate_field
from reports.html.sections import Section, SectionPage


def transfer_page(board: Board) -> SectionPage | None:
    """The page of a board; None where `gatebench transfer` was not run, or its cells have changed
    since.
    """
    if not board.transfers:
        return None
    victims = list(dict.fromkeys(pair.victim for pair in board.transfers))
    sources = list(dict.fromkeys((pair.source, pair.attack) for pair in board.transfers))
    pairs = {(pair.source, pair.victim): pair for pair in board.transfers}
    rows = []
    for source, attack in sources:
        rows.append(
            [
                Field(source, below=attack),
                *(_entry(pairs.get((source, victim)), source == victim) for victim in victims),
            ]
        )
    return SectionPage(
        path="transfer.html",
        title="Transfer",
        lead=(
            "The saved images that an attack made against the target of a row, evaluated on the "
            "target of each column: recovery of what that target saves on the clean images. "
            "Nothing was attacked again; the diagonal is the attack on its own target."
        ),
        sections=[
            Section(
                "Made against (row), evaluated on (column)",
                note=board.intervals,
                columns=(("Made against", False), *((victim, True) for victim in victims)),
                rows=rows,
                shaded=True,
            )
        ],
        teaser="what images made against one target do to the others",
    )


def _entry(pair: Transferred | None, own: bool) -> Field:
    if pair is None:
        return Field(numbers.DASH)
    shown = estimate_field(pair.recovery)
    return Field(shown.text, f"{shown.below}{', its own' if own else ''}", shown.sort)
