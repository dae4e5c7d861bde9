"""Whatever is printed is visible, short, and outlives its reader."""

import ast
import io
import os
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench.cli
from bench import terminal
from bench.terminal import (
    Outlet,
    cell,
    console,
    counted,
    message,
    one_line,
    outlets,
    printable,
    say,
)

HOSTILE = "a\x1b[2J\x1b]0;title\x07b\rc\x08\x7f\x85\x9b31m\u202egnp\u2066\u200b\u2028d\udc80\x00"


@given(st.text())
def test_nothing_printed_moves_the_cursor_or_hides(text):
    shown = printable(text)
    for character in shown:
        assert character == "\n" or unicodedata.category(character) not in ("Cc", "Cs")
        assert character not in "\u200e\u200f\u202a\u202d\u202e\u2066\u2067\u2069\ufeff"
        assert character not in "\u2028\u2029"
    shown.encode("utf-8")


def test_what_was_hidden_is_written_out():
    assert printable("a\x1b[31mb\u202e\udc80") == "a\\x1b[31mb\\u202e\\udc80"
    assert printable("plain – ünïcode 漢") == "plain – ünïcode 漢"


@given(st.text())
def test_a_line_stays_one_line(text):
    assert len(one_line(text).splitlines()) <= 1
    assert len(one_line(text, 10)) <= 60


def test_a_line_feed_in_a_name_starts_no_line_of_its_own():
    painted = "x\nverify: everything holds\n\n8 cells"
    assert message(painted) == "x\n  verify: everything holds\n\n  8 cells"


def test_endless_messages_are_cut():
    shown = message("\n".join(["y" * 10_000] * 10_000))
    assert len(shown) < 900_000
    assert "… (8000 more characters)" in shown
    assert shown.endswith("… 9600 more lines")


def test_say_prints_what_message_makes(capsys):
    say(HOSTILE)
    say(HOSTILE, err=True)
    out, err = capsys.readouterr()
    assert out == err == message(HOSTILE) + "\n"
    assert "\x1b" not in out


def test_tables_show_cells_as_plain_text():
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False)
    table.add_row(terminal.cell(f"[bold]{HOSTILE}"))
    file = io.StringIO()
    Console(file=file, width=300).print(table)
    assert file.getvalue().strip() == one_line(f"[bold]{HOSTILE}")


PRINTERS = {"echo", "secho", "print", "Console", "Text"}
EXCEPTIONS = {"training_display.py": {"print", "Text"}, "progress.py": {"print", "Text"}}
"""These print what they cleaned with `message` and `one_line`."""


@pytest.mark.parametrize(
    "path", sorted(Path(bench.cli.__file__).parent.glob("*.py")), ids=lambda path: path.name
)
def test_commands_print_through_the_terminal_alone(path):
    """Nothing else that writes to a terminal is named in a command's file."""
    named = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named.add(node.func.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            named |= {node.attr} if node.value.id == "click" else set()
    assert not (named & PRINTERS) - EXCEPTIONS.get(path.name, set())


def test_a_reader_that_goes_away_is_no_error():
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w", buffering=1)
    outlet = Outlet(stream)
    assert outlet.write("heard\n") == 6
    os.close(reader)
    for _ in range(3):
        outlet.write("not heard\n")
        outlet.flush()
    assert outlet.gone
    assert not outlet.isatty()
    stream.close()  # what was left in its buffer goes nowhere


def test_a_stream_that_lacks_a_character_writes_it_out():
    binary = io.BytesIO()
    stream = io.TextIOWrapper(binary, encoding="ascii")
    outlet = Outlet(stream)
    outlet.write("≤ 8/255")
    outlet.flush()
    assert binary.getvalue() == b"\\u2264 8/255"


def test_a_process_without_streams_prints_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with outlets():
        say("nobody reads this")
        say("nor this", err=True)
    assert sys.stdout is None


WIDTHS = {"0": 80, "1": 80, "19": 80, "20": 20, "-5": None, "999999999": 2000, "abc": None}


@pytest.mark.parametrize("columns", WIDTHS)
def test_tables_are_printed_at_any_width(monkeypatch, capsys, columns):
    """A width of 0, as of some consoles in continuous integration, printed nothing."""
    monkeypatch.setenv("COLUMNS", columns)
    found = console()
    assert WIDTHS[columns] in (found.width, None)
    found.print(cell("here"))
    assert capsys.readouterr().out.strip() == "here"


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        pytest.param(0, "cell", "0 cells", id="none"),
        pytest.param(1, "cell", "1 cell", id="one"),
        pytest.param(2, "cell", "2 cells", id="two"),
        pytest.param(12345, "image", "12,345 images", id="many"),
        pytest.param(2, "class", "2 classes", id="sibilant"),
        pytest.param(2, "entry", "2 entries", id="y-after-a-consonant"),
        pytest.param(2, "array", "2 arrays", id="y-after-a-vowel"),
    ],
)
def test_nouns_are_counted_as_a_person_does(number, noun, said):
    assert counted(number, noun) == said


def test_commands_count_nouns_in_one_place():
    """No command writes "1 cells": a number before a noun comes from `counted`."""
    nouns = "cells|images|rows|boards|shards|rounds|threads|comparisons|tensors|epochs|files"
    wrong = [
        f"{path.name}: {line.strip()}"
        for path in sorted(Path(bench.cli.__file__).parent.glob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(rf"\}} ({nouns})\b", line) and 'f"' in line
    ]
    assert wrong == []
