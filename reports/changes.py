"""Two runs side by side as people read them: a table in the terminal, Markdown for a pull request,
a page with pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bench.contracts.report import ComparisonReport, SavedImages
from bench.regression.compare import Change, Comparison
from bench.terminal import LONGEST_LINE, FittedColumn, FittedTable, one_line
from reports import numbers
from reports.differences import LEGEND, attacked, clean_images, counts, target_name
from reports.markdown import markdown
from reports.tables import console

COLUMNS = (
    ("Cell", False),
    ("Images", True),
    ("Dearer", True),
    ("Cheaper", True),
    ("MACs", True),
    ("Points of the ceiling", True),
    ("p", True),
    ("Accuracy", True),
    ("p", True),
)


class Changes(ComparisonReport):
    """What `gatebench compare` found, in every form; the same gives the same text."""

    def terminal(self, comparison: Comparison, names: tuple[str, str]) -> None:
        """Print a block a target: its clean images, then every attack."""
        out = console()
        out.print(Text(one_line(f"{names[1]} against {names[0]}", LONGEST_LINE), style="bold"))
        for name, changes in groupby(comparison.changes, key=target_name):
            out.print(Text(one_line(name, LONGEST_LINE), style="bold"))
            out.print(_table(list(changes), out.width))
        for note in comparison.notes:
            out.print(Text(f"note: {one_line(note, LONGEST_LINE)}", style="yellow"))
        out.print(Text(LEGEND, style="dim"))

    def markdown(self, comparison: Comparison, names: tuple[str, str]) -> str:
        """A comment on a pull request."""
        rows = [[change.label, *counts(change), *attacked(change)] for change in comparison.changes]
        return markdown(
            f"{names[1]} against {names[0]}",
            LEGEND,
            COLUMNS,
            rows,
            [*_clean_lines(comparison), *comparison.notes],
        )

    def json(self, comparison: Comparison) -> str:
        """Everything, every image that changed included."""
        return (
            json.dumps(
                comparison.document(), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False
            )
            + "\n"
        )

    def render(
        self,
        comparison: Comparison,
        names: tuple[str, str],
        pictures: SavedImages,
        out: Path,
        *,
        shown: int,
        version: str,
    ) -> None:
        """Write the page; see `reports.html.pages.comparison`."""
        from reports.html.pages.comparison import comparison_files
        from reports.html.site import write_site

        files = comparison_files(comparison, names, pictures, shown=shown, version=version)
        write_site(files, out, elsewhere="choose another folder with --html")


def _clean_lines(comparison: Comparison) -> list[str]:
    lines = []
    for name, changes in groupby(comparison.changes, key=target_name):
        macs, cost, p, accuracy, p_accuracy = clean_images(next(changes))
        unchanged = cost == accuracy == numbers.DASH
        told = (
            "unchanged"
            if unchanged
            else f"MACs {macs}, points {cost} (p {p}), accuracy {accuracy} (p {p_accuracy})"
        )
        lines.append(f"{name}, clean images: {told}")
    return lines


_TABLE = (
    FittedColumn("attack", name=True),
    FittedColumn("dearer", 3),
    FittedColumn("cheaper", 4),
    FittedColumn("MACs", 2),
    FittedColumn("points"),
    FittedColumn("p", 1),
    FittedColumn("accuracy", 5),
    FittedColumn("p of accuracy", 6),
)


def _table(changes: Sequence[Change], width: int) -> Table:
    first = changes[0]
    dearer, cheaper = (
        int((first.clean_now > first.clean_before).sum()),
        int((first.clean_now < first.clean_before).sum()),
    )
    rows: list[list[Text | str]] = [["(clean)", str(dearer), str(cheaper), *clean_images(first)]]
    rows += [
        [
            Text(one_line(change.attack, LONGEST_LINE)),
            str(change.dearer),
            str(change.cheaper),
            *attacked(change),
        ]
        for change in changes
    ]
    return FittedTable(_TABLE, rows, width).table(styles=["dim", *("" for _ in changes)])
