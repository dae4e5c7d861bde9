"""What is published in docs/results agrees with itself, and with the rows of its images."""

import csv
import hashlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import bench
from bench.testing import ToyTarget, sample_images

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "docs" / "results"
SCRIPT = ROOT / "benchmarks" / "results.py"
TABLES = sorted((PUBLISHED / "boards").glob("*.csv"))


def cells(table):
    with table.open(encoding="utf-8", newline="") as lines:
        return [row for row in csv.DictReader(lines) if row["status"] == "ok"]


def rows_by_key(folder):
    """key -> column -> array, of an images.parquet."""
    table = pq.read_table(folder / "images.parquet")
    columns = {name: np.array(table[name]) for name in table.column_names}
    keys, first, counts = np.unique(columns["key"], return_index=True, return_counts=True)
    spans = zip(keys, first, counts, strict=True)
    return {
        key: {name: values[start : start + count] for name, values in columns.items()}
        for key, start, count in spans
    }, len(table)


@pytest.fixture(scope="module")
def published():
    return rows_by_key(PUBLISHED)


def check(table, rows):
    """Every number of a board that follows from the rows of its images alone."""
    for cell in cells(table):
        found = rows[cell["key"][:12]]
        assert set(found["key"]) == {cell["key"][:12]}
        assert len(found["id"]) == len(set(found["id"])) == int(cell["n"])
        reference = float(cell.get("reference") or cell["ceiling"])
        clean, attacked = (found[name].astype(float) for name in ("clean_macs", "adversarial_macs"))
        assert float(cell["clean_macs"]) == pytest.approx(clean.mean())
        assert float(cell["adversarial_macs"]) == pytest.approx(attacked.mean())
        if cell["recovery"]:
            recovery = (attacked - clean).sum() / (reference - clean).sum()
            assert float(cell["recovery"]) == pytest.approx(recovery, abs=1e-9)
        saved = 1 - attacked.mean() / reference
        assert float(cell["surviving_saving"]) == pytest.approx(saved, abs=1e-9)
        right = (found["adversarial_prediction"] == found["label"]).mean()
        assert float(cell["adversarial_accuracy"]) == pytest.approx(right, abs=1e-9)


@pytest.mark.parametrize("table", TABLES, ids=[table.stem for table in TABLES])
def test_a_board_follows_from_its_rows(table, published):
    check(table, published[0])


def test_no_row_is_kept_twice_or_for_nothing(published):
    rows, count = published
    assert set(rows) == {cell["key"][:12] for table in TABLES for cell in cells(table)}
    assert count == sum(len(found["id"]) for found in rows.values())
    said = re.search(r"\(([\d,]+) rows,", (PUBLISHED / "README.md").read_text(encoding="utf-8"))
    assert said[1] == f"{count:,}"


def test_digests_are_those_of_the_files():
    lines = (PUBLISHED / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    said = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert list(said) == [*(f"boards/{table.name}" for table in TABLES), "images.parquet"]
    for name, digest in said.items():
        assert hashlib.sha256((PUBLISHED / name).read_bytes()).hexdigest() == digest


def test_every_board_is_named_in_the_page():
    text = (PUBLISHED / "README.md").read_text(encoding="utf-8")
    runs = {re.sub("-(psnr[0-9.]+|unbounded)$", "", table.stem) for table in TABLES}
    assert not [name for name in runs if name not in text]


def test_a_board_is_named_by_its_run_and_threat():
    board_names = runpy.run_path(str(SCRIPT))["board_names"]
    several = ["a: psnr>=30, budget 150, seed 0", "a: unbounded, budget 150, seed 0"]
    assert board_names("new", several) == ["new-psnr30", "new-unbounded"]
    assert board_names("new", several[:1]) == ["new"]


@pytest.mark.slow  # programs of their own, which import torch
def test_boards_are_added_and_replaced(tmp_path):
    """By the script; what another board has too is kept once, what none has any more goes."""
    out = tmp_path / "results"
    (out / "boards").mkdir(parents=True)

    for attack in ("gradauto", "identity"):
        threat, images = {"norm": "linf", "eps": "8/255"}, sample_images((3, 8, 8))
        folder = tmp_path / attack
        bench.evaluate(
            ToyTarget(), attack, images, threat=threat, budget=9, device="cpu", folder=folder
        )

    def publish(attack, name):
        command = [
            sys.executable,
            str(SCRIPT),
            str(tmp_path / attack),
            "--name",
            name,
            "--out",
            str(out),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        rows, count = rows_by_key(out)
        for table in (out / "boards").glob("*.csv"):
            check(table, rows)
        return count, set(rows)

    count, first = publish("gradauto", "a")
    assert publish("gradauto", "b") == (count, first)
    more, both = publish("identity", "b")
    assert (more, first < both) == (2 * count, True)
    assert publish("identity", "a") == (count, both - first)
    digests = (out / "SHA256SUMS").read_text(encoding="utf-8")
    assert [line.split("  ")[1] for line in digests.splitlines()] == [
        "boards/a.csv",
        "boards/b.csv",
        "images.parquet",
    ]
