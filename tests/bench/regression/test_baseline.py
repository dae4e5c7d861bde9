"""The committed file: small, reproducible, and noticed when it was altered."""

import json

import numpy as np
import pytest
from measured import baseline as made
from measured import board, cell

from bench.errors import NotComparable
from bench.files.canonical import digest
from bench.regression.baseline import SCHEMA, Baseline


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "baseline.json"
    board(np.random.default_rng(0), targets=2, attacks=2).write(path)
    return path


def test_what_is_read_is_what_was_written(file):
    again = Baseline.read(file)
    assert again.bytes() == file.read_bytes()
    before = board(np.random.default_rng(0), targets=2, attacks=2)
    assert again.bytes() == before.bytes()
    first, second = again.boards[0].cells[1], before.boards[0].cells[1]
    assert np.array_equal(first.adversarial_macs, second.adversarial_macs)
    assert np.array_equal(first.clean_correct, second.clean_correct)
    assert first.clean_correct.dtype == bool


def test_it_is_small_and_holds_clean_columns_once(file):
    text = file.read_text()
    assert len(text) < 20_000
    assert text.count('"clean_macs"') == 2
    assert max(len(line) for line in text.splitlines()) > 256  # columns stand on one line


def test_an_altered_file_is_refused(file):
    document = json.loads(file.read_text())
    document["boards"][0]["cells"][0]["adversarial_macs"][0] -= 100
    file.write_text(json.dumps(document))
    with pytest.raises(NotComparable, match="was altered after it was written"):
        Baseline.read(file)


def test_an_altered_digest_is_refused(file):
    document = json.loads(file.read_text())
    document["sha256"] = "0" * 64
    file.write_text(json.dumps(document))
    with pytest.raises(NotComparable, match="altered"):
        Baseline.read(file)


def test_a_newer_schema_is_refused_with_what_to_do(file):
    document = json.loads(file.read_text())
    document["schema"] = SCHEMA + 1
    file.write_text(json.dumps(document))
    with pytest.raises(
        NotComparable, match=f"has schema {SCHEMA + 1}, this gatebench reads up to {SCHEMA}"
    ) as refused:
        Baseline.read(file)
    assert "upgrade" in (refused.value.hint or "")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"a": 1}', "<html>"])
def test_something_else_is_refused(tmp_path, content):
    path = tmp_path / "b.json"
    path.write_text(content)
    with pytest.raises(NotComparable, match="is no baseline"):
        Baseline.read(path)


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path):
    with pytest.raises(NotComparable, match="there is no baseline") as refused:
        Baseline.read(tmp_path / "none.json")
    assert "gatebench baseline" in (refused.value.hint or "")


def test_cells_whose_clean_rows_differ_are_no_baseline():
    generator = np.random.default_rng(1)
    with pytest.raises(NotComparable, match="clean numbers differ"):
        made([cell(generator, attack="a"), cell(generator, attack="b")]).bytes()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda found: found["boards"][0]["cells"][0]["adversarial_macs"].__setitem__(0, 10**30),
            id="macs-huge",
        ),
        pytest.param(
            lambda found: found["boards"][0]["cells"][0]["adversarial_macs"].__setitem__(0, 1.5),
            id="macs-fraction",
        ),
        pytest.param(
            lambda found: found["boards"][0]["cells"][0].update(reference=0), id="reference-zero"
        ),
        pytest.param(
            lambda found: found["boards"][0]["cells"][0].update(inputs={}), id="no-inputs"
        ),
        pytest.param(lambda found: found["boards"][0]["protocol"].update(threat="x"), id="threat"),
        pytest.param(lambda found: found.update(environment=[]), id="environment-list"),
        pytest.param(lambda found: found.update(schema="1"), id="schema-text"),
        pytest.param(lambda found: found.update(schema=0), id="schema-zero"),
    ],
)
def test_content_that_no_run_has_is_refused_though_its_digest_fits(file, change):
    document = json.loads(file.read_text())
    del document["sha256"]
    change(document)
    file.write_text(json.dumps({**document, "sha256": digest(document)}))
    with pytest.raises(NotComparable):
        Baseline.read(file)


def test_a_document_without_end_is_refused(file):
    file.write_text("[" * 100_000)
    with pytest.raises(NotComparable, match="damaged"):
        Baseline.read(file)
