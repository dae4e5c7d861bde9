"""No text of a plugin adds an element or an attribute to a page, whatever it holds."""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from html.parser import HTMLParser
from unittest.mock import patch
from xml.etree import ElementTree

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import full_board

from bench.results.records import Board
from reports.html.encode import clean
from reports.leaderboard import Leaderboard
from reports.tables import WIDTH, console, render_table

ATTACKS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "` onload=alert(1) `",
    "</style></title></textarea><svg/onload=alert(1)>",
    "<!--",
    "-->",
    "]]>",
    "<![CDATA[",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "javascript:alert(1)",
    "&lt;b&gt;",
    "&#x3c;b>",
    "[bold red]x[/]",
    "[/]",
    "\x1b[31m\x07",
    "\x00\x08",
    "\u202e\u2066",
    "\ud800",
    "\u2028\u2029",
    "\ufffe",
    "%3Cscript%3E",
    "datum['x']",
)
TEXT = (
    st.sampled_from(ATTACKS)
    | st.text(st.characters(), max_size=30)
    | st.lists(st.sampled_from(ATTACKS), max_size=3).map("".join)
)


class Skeleton(HTMLParser):
    """Elements with the names of their attributes, in order; the values that can do something; the
    JSON blocks.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []
        self.blocks: list[object] = []
        self._data, self._text = False, ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.links += [str(value) for name, value in attrs if name in ("href", "src")]
        self._data = tag == "script" and ("type", "application/json") in attrs

    def handle_data(self, data: str) -> None:
        if self._data:
            self._text += data

    def handle_endtag(self, tag: str) -> None:
        if self._data:
            self.blocks.append(json.loads(self._text))
        self._data, self._text = False, ""

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment", ()))

    def handle_decl(self, decl: str) -> None:
        self.elements.append(("declaration", ()))

    def unknown_decl(self, data: str) -> None:
        self.elements.append(("unknown", ()))

    def handle_pi(self, data: str) -> None:
        self.elements.append(("instruction", ()))


def strewn(board: Board, word: Callable[[], str]) -> Board:
    """The board with another word in every place that a plugin, a plan or an environment fills.
    Numbers stay.
    """

    def tree(value: object) -> object:
        if isinstance(value, dict):
            return {word(): tree(entry) for entry in value.values()}
        return word() if isinstance(value, str) else value

    names: dict[str, str] = {}

    def named(label: str) -> str:
        if label and label not in names:
            names[label] = word()
        return names.get(label, label)

    cells = []
    for cell in board.cells:
        rows = tuple(replace(row, id=word()) for row in cell.rows())
        cells.append(
            replace(
                cell,
                target=named(cell.target),
                defense=named(cell.defense),
                attack=named(cell.attack),
                inputs=tree(dict(cell.inputs)),  # type: ignore[arg-type]
                status=cell.status if cell.status == "ok" else word(),
                reason=cell.reason and word(),
                flags=tuple(word() for _ in cell.flags),
                classes=tuple(word() for _ in cell.classes),
                units=tuple(
                    replace(unit, name=word(), kind=named(unit.kind), owner=named(unit.owner))
                    for unit in cell.units
                ),
                environment=tree(dict(cell.environment)),  # type: ignore[arg-type]
                command=word(),
                rows=lambda rows=rows: rows,
            )
        )
    standings = tuple(
        replace(
            one,
            target=named(one.target),
            defense=named(one.defense),
            strongest=named(one.strongest or ""),
        )
        for one in board.standings
    )
    protocol = {
        **{word(): word() for _ in range(2)},
        "threat": word(),
        "images": 3,
        "budget": word(),
    }
    return replace(
        board,
        name=word(),
        protocol=protocol,
        plan=tree(dict(board.plan)),  # type: ignore[arg-type]
        command=word(),
        dataset=word(),
        dataset_note=word(),
        credits=tuple(word() for _ in board.credits),
        intervals=word(),
        version=word(),
        cells=tuple(cells),
        standings=standings,
    )


def small() -> Board:
    board = full_board(n=2)
    chosen = (
        board.cells[10],
        board.cells[14],
        next(cell for cell in board.cells if cell.status == "failed"),
    )
    places = {(cell.target, cell.defense) for cell in chosen}
    standings = tuple(one for one in board.standings if (one.target, one.defense) in places)
    return replace(board, cells=chosen, standings=standings)


def pages(board: Board, *, stills: bool = False) -> dict[str, str]:
    """Pages and still pictures; the latter are slow to draw and empty unless asked for."""
    with (
        nullcontext() if stills else patch("reports.html.charts.still", lambda document: b"<svg/>")
    ):
        files = Leaderboard(browse=1, showcase=1).files([board], version=board.version)
        return {
            name: content.decode("utf-8")
            for name, content in files
            if name.endswith((".html", ".svg"))
        }


def supply(texts: Sequence[str]) -> Callable[[], str]:
    """Words made of the texts in turn, each of its own, so that equal names do not merge rows."""
    count = -1

    def word() -> str:
        nonlocal count
        count += 1
        return f"w{count} {texts[count % len(texts)]}"

    return word


@functools.cache
def benign() -> dict[str, str]:
    """The same pages with plain words."""
    return pages(strewn(small(), supply(["plain"])))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(TEXT, min_size=3, max_size=7))
def test_pages_have_the_same_elements_and_attributes_whatever_the_words(texts: list[str]) -> None:
    hostile = pages(strewn(small(), supply(texts)))
    assert hostile.keys() == benign().keys()
    for name, text in hostile.items():
        if name.endswith(".svg"):
            continue
        found, expected = Skeleton(text), Skeleton(benign()[name])
        assert _without_credit_links(found) == _without_credit_links(expected)
        assert [link for link in found.links if not _harmless(link)] == []
        assert len(found.blocks) == len(expected.blocks)


def _without_credit_links(page: Skeleton) -> list[tuple[str, tuple[str, ...]]]:
    """An address in a credit line may become a link; nothing else may differ."""
    return [element for element in page.elements if element != ("a", ("href", "rel"))]


def _harmless(link: str) -> bool:
    """A place in the report by its fixed or hexadecimal name, or an address with an allowed scheme."""
    inside = (
        r"#main|#row-[0-9a-f]+|\.\./index\.html"
        r"|((\.\./)*(assets|cells|pictures)/)?[a-z0-9-]+\.(html|css|js|png|svg|csv|parquet)"
    )
    return re.fullmatch(inside, link) is not None or link.startswith(
        ("http://", "https://", "mailto:", "data:image/png;base64,")
    )


def test_still_pictures_hold_words_as_words() -> None:
    for texts in (ATTACKS, ATTACKS[::-1]):
        files = pages(strewn(small(), supply(texts)), stills=True)
        drawn = [
            ElementTree.fromstring(text)
            for name, text in files.items()
            if name.endswith("front.svg")
        ]
        assert len(drawn) == 1
        for picture in drawn:
            elements = {element.tag.rpartition("}")[2] for element in picture.iter()}
            assert elements <= {
                "svg",
                "g",
                "path",
                "text",
                "rect",
                "line",
                "defs",
                "clipPath",
                "tspan",
            }
            assert not [
                key
                for element in picture.iter()
                for key in element.attrib
                if key.startswith("on") or key.endswith("href")
            ]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(TEXT, min_size=3, max_size=7))
def test_names_in_charts_parse_back_as_they_were(texts: list[str]) -> None:
    board = strewn(small(), supply(texts))
    blocks = Skeleton(pages(board)["index.html"]).blocks
    (front,) = blocks
    drawn = {
        entry["attack"]
        for layer in front["layer"]
        for entry in layer["data"]["values"]
        if "attack" in entry
    }  # type: ignore[index]
    assert drawn == {clean(cell.attack) for cell in board.cells if cell.status == "ok"}


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXT, min_size=3, max_size=7))
def test_the_terminal_table_shows_words_as_they_are(texts: list[str]) -> None:
    board = strewn(small(), supply(texts))
    out = io.StringIO()
    console(out).print(render_table(board))
    text = out.getvalue()
    assert not set(text) & set("\x00\x07\x08\x1b\u202e\u2066")
    together = "".join(text.split())
    for cell in board.cells:
        if cell.status != "ok":
            assert "".join(clean(f"{cell.attack} {cell.status}: {cell.reason}").split()) in together
    assert WIDTH == 100
