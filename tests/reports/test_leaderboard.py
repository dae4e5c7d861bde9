"""The pages: complete without scripts, quiet on the network, the same bytes for the same board."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from synthetic import empty_board, full_board

import reports.leaderboard
from bench.results.records import Board
from reports.html.render import environment
from reports.leaderboard import Leaderboard

TEMPLATES = Path(__file__).parents[2] / "reports" / "templates"


def board_of_all_kinds() -> Board:
    """A target with all attacks and controls, one of maps, one that cannot save, and every status."""
    board = full_board(n=8)
    return replace(board, cells=board.cells[:7] + board.cells[14:15] + board.cells[21:])


@lru_cache(maxsize=1)
def report() -> dict[str, str]:
    """The files of a report of the full board, those that are no text as empty strings."""
    return texts(board_of_all_kinds(), full=True)


def texts(*boards: Board, **limits: Any) -> dict[str, str]:
    files = Leaderboard(**limits).files(boards, version="0.1.0")
    return {
        name: "" if name.endswith((".png", ".parquet")) else content.decode()
        for name, content in files
    }


class Page(HTMLParser):
    """The elements of a page, the text of its JSON blocks and of its table cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: dict[str, str] = {}
        self.words: list[str] = []
        self._block = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script" and dict(attrs).get("type") == "application/json":
            self._block = str(dict(attrs)["id"])

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._block = ""

    def handle_data(self, data: str) -> None:
        if self._block:
            self.blocks[self._block] = self.blocks.get(self._block, "") + data
        else:
            self.words.append(data)


def test_every_link_leads_to_a_file_of_the_report_or_a_place_in_the_page() -> None:
    everything = set(report())
    for name, text in report().items():
        if not name.endswith(".html"):
            continue
        for tag, attributes in Page(text).elements:
            link = attributes.get("href") or attributes.get("src")
            if link is None or link.startswith("#"):
                continue
            if link.startswith("https://example.org/"):
                assert tag == "a", "the credit's own link is the only way out, and only on a click"
                continue
            parts: list[str] = list(PurePosixPath(name).parent.parts)
            for part in PurePosixPath(link).parts:
                parts = parts[:-1] if part == ".." else [*parts, part]
            assert "/".join(parts) in everything, f"{name} leads to {link}"


def test_the_policy_forbids_eval_inline_and_the_network() -> None:
    for name, text in report().items():
        if name.endswith(".html"):
            policy = next(
                a["content"]
                for tag, a in Page(text).elements
                if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
            )
            assert policy is not None
            assert policy.startswith("default-src 'none';")
            assert "unsafe" not in policy
            assert "http" not in policy


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    for name, text in report().items():
        if name.endswith(".html"):
            for tag, attributes in Page(text).elements:
                assert not [key for key in attributes if key.startswith("on") or key == "style"]
                assert tag not in ("style", "iframe", "object", "embed", "base")
                if tag == "script":
                    assert attributes.get("type") == "application/json" or str(
                        attributes["src"]
                    ).startswith(("assets/", "../assets/"))
        if name.endswith((".css", "page.js", "board.js", "early.js", "draw.js", "gates.js")):
            assert not re.search(r"https?:|//[a-z]|@import|\beval\b|innerHTML|new Function", text)


def test_the_tables_are_complete_without_scripts() -> None:
    board = board_of_all_kinds()
    page = Page(report()["index.html"])
    rows = [
        attributes
        for tag, attributes in page.elements
        if tag == "tr" and str(attributes.get("id", "")).startswith("row-")
    ]
    assert len(rows) == len(board.cells)
    text = " ".join(page.words)
    for cell in board.cells:
        assert cell.attack in text
        assert " ".join(cell.reason.split()) in " ".join(text.split())
    for word in (
        "preliminary",
        "for trying, not for claims",
        "Holm over the board",
        "MMAC",
        "control",
        "left-threat",
    ):
        assert word in text
    assert (
        sum(
            1
            for tag, a in page.elements
            if tag == "tr" and "control" in (a.get("class") or "").split()
        )
        == 3
    )


def test_flops_are_named_only_to_say_that_none_are_printed() -> None:
    for name, text in report().items():
        if name.endswith(".html"):
            for found in re.finditer("FLOPs?", " ".join(Page(text).words)):
                around = found.string[max(0, found.start() - 60) : found.end() + 60]
                assert "no FLOPs" in around or "not FLOPs" in around


def test_a_cell_s_page_has_pictures_gates_charts_inputs_and_command() -> None:
    board = full_board(n=8)
    cell = board.cells[0]
    text = report()[f"cells/{cell.key[:12]}.html"]
    page = Page(text)
    assert set(page.blocks) == {"front", "distribution", "finished", "trace", "rates", "gates"}
    assert sum("data-gates" in a for _, a in page.elements) == 6 + 8
    pictures = [str(a["href"]) for tag, a in page.elements if tag == "image"]
    assert len(pictures) == 3 * (6 + 8)
    assert len(set(pictures)) == 1, "all pictures of a cell are one file"
    words = " ".join(page.words)
    for part in (cell.command, '"steps": 50', "2.14.1", cell.key, "amplified"):
        assert part in words


def test_a_cell_without_numbers_has_its_reason_and_nothing_drawn() -> None:
    for cell in full_board(n=8).cells:
        if cell.status != "ok":
            page = Page(report()[f"cells/{cell.key[:12]}.html"])
            assert page.blocks == {}
            assert " ".join(cell.reason.split()) in " ".join(" ".join(page.words).split())


def test_charts_are_data_that_parses_back() -> None:
    for name, text in report().items():
        if name.endswith(".html"):
            for chart, block in Page(text).blocks.items():
                document = json.loads(block)
                assert chart == "gates" or document["$schema"].startswith(
                    "https://vega.github.io/schema/vega-lite/"
                )
                assert not set(block) & set("<>&")


def test_a_target_of_maps_tells_the_script_of_its_maps() -> None:
    cell = next(cell for cell in full_board(n=8).cells if cell.target == "sact-like")
    page = Page(report()[f"cells/{cell.key[:12]}.html"])
    told = json.loads(page.blocks["gates"])
    assert [name for name, *_ in told["maps"]] == ["block0", "block1", "block2", "conv0"]


def test_the_light_report_shows_the_showcase_alone() -> None:
    board = full_board(n=8)
    small = replace(board, cells=board.cells[:1])
    text = texts(small)[f"cells/{board.cells[0].key[:12]}.html"]
    assert sum(1 for tag, _ in Page(text).elements if tag == "article") == 6
    assert "Browse" not in text


def test_a_large_board_has_pages_of_its_cells_in_the_full_report_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reports.leaderboard, "MOST_PAGES", 1)
    board = full_board(n=2)
    board = replace(board, cells=board.cells[:2])
    light, full = texts(board), texts(board, full=True)
    assert not [name for name in light if name.startswith("cells/")]
    assert "--full" in light["index.html"]
    assert 'href="cells/' not in light["index.html"]
    assert len([name for name in full if name.startswith("cells/")]) == 2


def test_limits_are_kept_and_said() -> None:
    board = full_board(n=8)
    board = replace(board, cells=board.cells[:1])
    text = texts(board, showcase=2, browse=3)[f"cells/{board.cells[0].key[:12]}.html"]
    assert sum(1 for tag, a in Page(text).elements if tag == "article") == 5
    assert "Browse 3 of 8 images" in text


def test_the_same_board_gives_the_same_bytes(tmp_path: Path) -> None:
    board = full_board(n=4)
    board = replace(board, cells=board.cells[:2] + board.cells[14:15])
    Leaderboard().render(board, tmp_path / "one")
    Leaderboard().render(board, tmp_path / "two")
    one, two = (
        {
            str(path.relative_to(tmp_path / side)): path.read_bytes()
            for path in sorted((tmp_path / side).rglob("*"))
            if path.is_file()
        }
        for side in ("one", "two")
    )
    assert one == two
    assert len(one) > 15


_DIGEST = """
import sys
from test_leaderboard import digest
print(digest())
assert "torch" not in sys.modules, "a report is written without torch"
"""


def digest() -> str:
    """Of every file of a report."""
    board = full_board(n=3)
    board = replace(board, cells=board.cells[:1] + board.cells[14:15])
    found = hashlib.sha256()
    for name, content in Leaderboard().files([board], version="0.1.0"):
        found.update(name.encode() + content)
    return found.hexdigest()


@pytest.mark.slow  # renders all pages twice, once in a process of its own
def test_another_process_gives_the_same_bytes_and_needs_no_torch() -> None:
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parent / "support", here.parents[1])))
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-c", _DIGEST],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == digest()


def test_several_boards_make_an_index_and_a_folder_each() -> None:
    board = full_board(n=3)
    small = replace(board, cells=board.cells[:1])
    files = texts(small, replace(small, name="../<b>", ranked=False), empty_board())
    assert {name for name in files if name.endswith("index.html")} == {
        "index.html",
        "01-digits-m-psnr35-1a2b3c/index.html",
        "02-b/index.html",
        "03-digits-m-psnr35-1a2b3c/index.html",
    }
    links = [str(a.get("href")) for tag, a in Page(files["index.html"]).elements if tag == "a"]
    assert "02-b/index.html" in links
    assert "../assets/style.css" in files["02-b/index.html"]
    assert "../../assets/style.css" in files[f"02-b/cells/{small.cells[0].key[:12]}.html"]


def test_an_empty_board_is_a_page() -> None:
    files = texts(empty_board())
    assert "This board has no cells." in files["index.html"]


FURTHER = ("sheet.path", "home", "entry.page", "member.page")
"""Links that our own code makes: paths of pages that it names, and pages of cells by the letters
and digits of their key.
"""


def test_templates_never_declare_data_safe() -> None:
    for path in TEMPLATES.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*(safe|tojson)|Markup|autoescape|\son[a-z]+=|\sstyle=", text), (
            path
        )
        for link in re.findall(r'href="\{\{\s*([a-z.]+)', text):
            assert link in (
                "root",
                "row.page",
                "standing.page",
                "link",
                "before.page",
                "after.page",
                "entry.folder",
                *FURTHER,
            ), path
        assert not re.search(r"<script(?! type=\"application/json\"| src=)", text), path
        assert not re.search(r"=\{\{", text), f"an unquoted attribute in {path}"
    assert environment().autoescape is True
    assert "safe" not in environment().filters


def test_a_forgotten_value_is_an_error_and_not_the_word_none() -> None:
    with pytest.raises(TypeError, match="not there"):
        environment().from_string("{{ value }}").render(value=None)
