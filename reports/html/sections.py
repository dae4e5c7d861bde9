"""A page made of sections: a heading, what it says, charts, a table. What the further pages of a
report have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reports.html.charts import Document
from reports.html.fields import Entry


@dataclass(frozen=True)
class Picture:
    """A picture of a page: its file in the site's folder of pictures (named by content), PNG bytes,
    words, its size on the page, and the anchors that lead to it.
    """

    name: str
    content: bytes
    alt: str
    caption: str
    width: int
    height: int
    anchors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """A chart to be drawn: a name that is unique on the page, what it shows for those who cannot
    see it, and its document.
    """

    name: str
    alt: str
    caption: str
    document: Document | None


@dataclass(frozen=True)
class Section:
    """One section of a page.

    Attributes:
        heading: its title.
        note: what to know.
        columns: (head, whether numeric).
        rows: one entry a column.
        drawings: charts above the table.
        pictures: pictures above the table.
        points: short statements below the note.
        shaded: rows of a matrix are shaded by the sort value of each entry, 0 to 1.
    """

    heading: str
    note: str = ""
    columns: Sequence[tuple[str, bool]] = ()
    rows: Sequence[Sequence[Entry]] = ()
    drawings: Sequence[Drawing] = ()
    pictures: Sequence[Picture] = ()
    points: Sequence[str] = field(default_factory=tuple)
    shaded: bool = False


@dataclass(frozen=True)
class SectionPage:
    """A page: where it lies from the report's root, how it is called, what it says at the top, and
    its sections.
    """

    path: str
    title: str
    lead: str
    sections: Sequence[Section]
    teaser: str
