"""Model cards: everything from the manifest and the record, nothing that Markdown would run, and no
stale page in docs/cards."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench import weights
from bench.cli import cli
from bench.errors import PlanError, WeightsError
from bench.weights.cards import card, file_name, index

DOCS = Path(__file__).parents[3] / "docs/cards"
VALUES = {
    "target": "skipnet", "params": {"depth": 8}, "dataset": "digits-m", "recipe": "skipnet", "stage": "budget", "seed": 3,
    "accuracy": 0.951, "static_accuracy": 0.96, "clean_saving": 0.3, "spread": 0.05, "ceiling": 1234567, "gates_varying": 2,
    "opening_rates": [0.5, 0.75], "epochs": 2, "seconds": 90.0, "started_from": "one@digits-m",
    "training": {"recipe": "skipnet", "stage_name": "budget", "dataset": "digits-m", "seed": 3, "precision": "bf16", "start": "ab",
                 "depth": 8, "lr": 0.004},
}  # fmt: skip
RECORD = {
    "curves": {"loss": [2.0, 1.5, 1.0], "accuracy": [0.1, 0.5, 0.9]},
    "rates": [0.5, 0.6, 0.9],
    "owners": [["a", "block", [], 1], ["b", "channel", [2], 2]],
}


def entry_in(folder, name="some@digits-m", record=RECORD, **changes):
    return weights.add_entry(folder, name, {"w": torch.zeros(3)}, {**VALUES, **changes}, record)


def test_a_card_says_everything(tmp_path):
    text = card(entry_in(tmp_path))
    parts = """
        # some@digits-m|A ResNet that skips whole blocks|- Unit: a residual block|Wang et al.|1,234,567|30.0 %|5.0 %|one@digits-m
        1.5 minutes
        --set depth=8 --set lr=0.004|--from one@digits-m|for trying, not for claims
    """
    rows = """
        accuracy | 95.1 %
        accuracy of the static twin | 96.0 %
        seed | 3
        loss | █▅▁ | 2 | 1
        accuracy | ▁▅█ | 0.1 | 0.9
        a | block | 1 | 0.500 | 0.500 | 0.500
        b | channel | 2 | 0.750 | 0.600 | 0.900
        licence | unknown
    """
    found = [part.strip() for line in parts.strip().splitlines() for part in line.split("|")]
    for part in [*found, *(f"| {row.strip()} |" for row in rows.strip().splitlines())]:
        assert part in text, part
    assert f"`{entry_in(tmp_path).sha256}`" in text


def test_a_curve_that_has_no_numbers_in_it_is_shown(tmp_path):
    """A stage may show a mean over nothing."""
    odd = {"loss": [2.0, float("nan"), 1.0], "shown": [float("inf")] * 3}
    text = card(entry_in(tmp_path, record={**RECORD, "curves": odd}))
    assert "| loss | █·▁ | 2 | 1 |" in text
    assert "| shown | ··· | inf | inf |" in text


@pytest.mark.parametrize(
    "record",
    [
        pytest.param([], id="list"),
        pytest.param({"curves": 3}, id="curves"),
        pytest.param({"curves": {"loss": ["x"]}}, id="text"),
        pytest.param({"rates": [0.5], "owners": [["a", "block", [], 9]]}, id="too-few-rates"),
        pytest.param({"rates": [0.5], "owners": [["a"]]}, id="short-owner"),
        pytest.param({"rates": 1, "owners": 2}, id="numbers"),
    ],
)
def test_a_record_of_another_shape_is_named(tmp_path, record):
    """Its digest says who wrote it, not what."""
    entry = entry_in(tmp_path, record=record)
    with pytest.raises(WeightsError, match=r"some@digits-m.json is no record of a training"):
        card(entry)


def test_what_is_not_known_is_a_dash(tmp_path):
    entry = weights.add_entry(tmp_path, "bare", {"w": torch.zeros(3)}, {"target": "nobodys"})
    text = card(entry)
    assert "| accuracy | – |" in text
    assert "Not recorded." in text
    assert "Nothing can be left out." in text


def test_weights_without_a_record_list_their_rates(tmp_path):
    text = card(entry_in(tmp_path, record=None))
    assert "in order: 0.500, 0.750." in text


def test_hostile_values_stay_text(tmp_path):
    evil = "<script>alert(1)</script> [x](javascript:1) | `` ` ``\n# head"
    entry = replace(
        entry_in(tmp_path),
        recipe=evil,
        licence=evil,
        more={"measured_on": evil, "started_from": evil},
    )
    text = card(entry) + index([entry])
    assert "<script" not in text
    assert "](javascript" not in text
    assert "\n# head" not in text


def test_the_command_prints_and_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path))
    entry = entry_in(tmp_path / "weights")
    done = CliRunner().invoke(cli, ["weights", "card", entry.name])
    assert done.exit_code == 0
    assert done.output == card(entry)
    assert CliRunner().invoke(cli, ["weights", "card"]).exit_code != 0
    done = CliRunner().invoke(cli, ["weights", "card", "--all", "--out", str(tmp_path / "cards")])
    assert done.exit_code == 0, done.output
    shipped = weights.read_manifest(weights.module_folder("targets.weights"))
    assert {path.name for path in (tmp_path / "cards").iterdir()} == {
        "README.md",
        *(f"{name}.md" for name in shipped),
    }


@pytest.mark.parametrize(
    "name", sorted(weights.read_manifest(weights.module_folder("targets.weights")))
)
def test_the_cards_in_docs_are_not_stale(name):
    entry = weights.find(f"gatebench/{name}")
    assert (DOCS / file_name(entry)).read_text(encoding="utf-8") == card(entry), (
        "gatebench weights card --all --out docs/cards"
    )


def test_the_index_in_docs_is_not_stale():
    entries = [entry for entry in weights.entries().values() if entry.origin == "gatebench"]
    assert (DOCS / "README.md").read_text(encoding="utf-8") == index(entries)


def test_cards_leave_a_readme_of_others_alone(tmp_path):
    (tmp_path / "README.md").write_text("# Thesis\n")
    arguments = ["weights", "card", "--all", "--out", str(tmp_path)]
    with pytest.raises(PlanError, match=r"README\.md is there, and no card of gatebench"):
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    (tmp_path / "README.md").unlink()
    for _ in range(2):
        assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
