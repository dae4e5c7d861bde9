"""Foreign strings: control characters, JSON inside a page, links."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.html.encode import clean, clean_tree, encode_json, json_block, safe_link, split_links

TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.text(st.characters()))
def test_cleaned_text_is_printable_in_utf8(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert not any(ord(character) < 32 and character not in "\n\t" for character in cleaned)
    assert not set(cleaned) & set("\x7f\x9b\u202e\u2066\ufffe")
    assert clean(cleaned) == cleaned


def test_clean_keeps_people_s_letters_and_line_feeds() -> None:
    assert clean("größe → 数\n\tok") == "größe → 数\n\tok"
    assert clean("a\x1b[31mb\x00c\u202ed") == "a[31mbcd"
    assert clean("\ud800") == "\ufffd"


@given(TREES)
def test_json_in_a_page_holds_no_character_of_html_and_parses_back(tree: object) -> None:
    tidy = clean_tree(tree)
    text = encode_json(tidy)
    assert text.isascii()
    assert not set(text) & set("<>&")
    assert json.loads(text) == tidy
    assert json_block(tree) == text


def test_numbers_that_json_lacks_become_their_names() -> None:
    assert clean_tree({"a": math.nan, "b": -math.inf, "c": 1.5}) == {
        "a": "nan",
        "b": "-inf",
        "c": 1.5,
    }
    with pytest.raises(ValueError, match="JSON"):
        encode_json(math.nan)


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "data:text/html,x",
        "vbscript:x",
        "file:///etc/passwd",
        "//host/path",
        "https:evil",
        "java\nscript:alert(1)",
        "https://a b",
        "https://[half",
        "relative/path",
        "",
    ],
)
def test_links_outside_the_allow_list_are_refused(link: str) -> None:
    assert safe_link(link) is None


def test_credits_are_cut_into_text_and_links() -> None:
    assert split_links("By A, https://example.org/x?a=1, CC BY; javascript:alert(1)") == [
        ("By A, ", None),
        ("https://example.org/x?a=1,", "https://example.org/x?a=1,"),
        (" CC BY; javascript:alert(1)", None),
    ]
