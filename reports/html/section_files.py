"""The files of a page made of sections: the page and its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.results.records import Board
from reports.html.drawings import Chart, chart
from reports.html.render import page
from reports.html.sections import Section, SectionPage
from reports.html.site import File


def section_files(
    sheet: SectionPage,
    *,
    folder: str,
    root: str,
    home: str,
    version: str,
    board: Board | None = None,
    linked: bool = True,
) -> Iterator[File]:
    """A page of sections, and its pictures."""
    yield from (
        (f"pictures/{picture.name}", picture.content)
        for section in sheet.sections
        for picture in section.pictures
    )
    sections, charted = [], False
    for section in sheet.sections:
        drawn = []
        for drawing in section.drawings:
            made = chart(drawing.name, drawing.alt, drawing.document)
            if made is not None:
                charted = True
                drawn.append((made, drawing.caption))
        sections.append(_section(section, drawn, linked=linked))
    yield (
        f"{folder}{sheet.path}",
        page(
            "sections.html",
            root=root,
            home=home,
            home_of_board="index.html" if folder else "",
            board_name=board.name if board is not None else "",
            inner="",
            charted=charted,
            version=version,
            sheet=sheet,
            sections=sections,
            credits=[],
        ),
    )


def _section(
    section: Section, drawn: Sequence[tuple[Chart, str]], *, linked: bool
) -> dict[str, Any]:
    rows = [[_entry(entry, linked=linked) for entry in row] for row in section.rows]
    return {
        "heading": section.heading,
        "note": section.note,
        "points": list(section.points),
        "columns": list(section.columns),
        "rows": rows,
        "charts": list(drawn),
        "pictures": list(section.pictures),
        "shaded": section.shaded,
    }


def _entry(entry: Any, *, linked: bool) -> dict[str, Any]:
    """An entry of a table for the template; links are taken from the page's own folder. Shades go
    from 0 to 10.
    """
    sort = getattr(entry, "sort", None)
    shade = max(0, min(10, round(10 * sort))) if isinstance(sort, float | int) else None
    return {
        "text": entry.text,
        "below": entry.below,
        "page": getattr(entry, "page", "") if linked else "",
        "shade": shade,
    }
