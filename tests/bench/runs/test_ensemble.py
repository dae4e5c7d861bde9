"""AutoEnergy from sealed cells: a real small run, and the rule by hand."""

import json
import shutil
from dataclasses import replace

import pytest

from attacks.autoenergy import AutoEnergy
from bench.plans.resolve import load_plan
from bench.results.board import load_boards
from bench.results.ensemble import member_keys, strongest, trace_in_turn
from bench.runs.ensemble import _adaptive, combined
from bench.runs.layout import lay_out
from bench.runs.run import Run
from bench.runs.seal import environment_of, seal
from bench.store.folder import RunFolder

PLAN = """
schema = 1
[protocol]
dataset = "digits-m:test"
images = 3
batch = 2
threat = { norm = "psnr", floor = 32 }
budget = 12
audit = 1
[run]
shard = 2
device = "cpu"
[[target]]
use = "skipnet"
weights = "skipnet-20-budget@digits-m"
[[target]]
use = "fbs"
params = { depth = 8 }
weights = "random:0"
label = "fbs-8"
[[attack]]
use = "autoenergy"
[[attack]]
use = "pry:concave"
label = "mine"
params = { mask_grad = "ste" }
[[attack]]
use = "identity"
"""


def run(folder, *, only=(), **how):
    (folder / "plan.toml").write_text(PLAN)
    whole = load_plan(folder / "plan.toml")
    part = load_plan(folder / "plan.toml", only=only) if only else whole
    command = "gatebench run plan.toml"
    laid = lay_out(part, folder, "r", command, None, whole=whole if only else None)
    return laid, Run(laid, in_process=True, **how)


def go(work):
    return work(lambda tasks, there: None, lambda event: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("combine")
    laid, work = run(folder)
    outcome = go(work)
    assert outcome.is_clean
    return folder, laid


def sealed_ceiling(laid, key):
    return json.loads((laid.folder.cell(key).path / "target.json").read_text())["ceiling"]


def cell_of(laid, target, attack):
    return next(
        (key, cell)
        for key, cell in laid.cells.items()
        if (cell.target.label, cell.attack.label) == (target, attack)
    )


def test_members_become_cells_and_what_the_plan_has_is_not_run_twice(finished):
    _, laid = finished
    labels = [cell.attack.label for cell in laid.cells.values() if cell.target.name == "skipnet"]
    assert labels.count("mine") == 1
    assert "pry:concave mask_grad=ste" not in labels
    assert {"pry", "genetic", "autoenergy"} <= set(labels)
    _, cell = cell_of(laid, "skipnet-20-budget", "autoenergy")
    members = [laid.cells[key].attack.label for key in member_keys(cell, laid.cells)]
    power = f"pry loss={AutoEnergy.members[2][1]['loss']}"
    assert members == ["pry", "mine", power, "genetic"]


def test_what_the_members_did_about_a_random_defense_is_said(finished):
    _, laid = finished
    key, cell = cell_of(laid, "skipnet-20-budget", "autoenergy")
    target = replace(laid.folder.cell(key).target(), draws=4)
    assert _adaptive(cell, target) == []
    guarded = replace(cell, defense=replace(cell.attack, name="smoothing", members=()))
    said = "; ".join(_adaptive(guarded, target))
    assert "fresh draws of their own" in said
    assert "scores over 4 others" in said


def test_as_strong_as_thestrongest_member_image_by_image(finished):
    _, laid = finished
    key, _ = cell_of(laid, "skipnet-20-budget", "autoenergy")
    whole = laid.folder.cell(key).table().to_pylist()
    sealed = laid.folder.cell(key).sealed()
    parts = [
        laid.folder.cell(member.key).table().to_pylist() for member in sealed.combination.members
    ]
    assert len(parts) == 4
    for i, row in enumerate(whole):
        candidates = [part[i] for part in parts]
        best = max(
            (candidate["adversarial_macs"], -candidate["squared"]) for candidate in candidates
        )
        assert (row["adversarial_macs"], -row["squared"]) == best
        assert row["evaluations"] == sum(candidate["evaluations"] for candidate in candidates)
        winner = candidates[sealed.combination.winner[i]]
        assert row["adversarial"] == winner["adversarial"]
        assert [point["evaluations"] for point in row["trace"]] == sorted(
            point["evaluations"] for point in row["trace"]
        )
        assert row["trace"][-1]["macs"] == max(
            point["macs"] for candidate in candidates for point in candidate["trace"]
        )
    assert sum(member.wins for member in sealed.combination.members) == 3
    reserve = sum(sealed_ceiling(laid, key) - row["clean_macs"] for row in whole)
    for place, member in enumerate(sealed.combination.members):
        without = [
            max(part[i]["adversarial_macs"] for j, part in enumerate(parts) if j != place)
            for i in range(3)
        ]
        lost = sum(row["adversarial_macs"] - macs for row, macs in zip(whole, without, strict=True))
        assert member.adds == pytest.approx(lost / reserve)
    assert sealed.combination.budget == 4 * 12
    assert sealed.combination.left_out == ()


def test_on_the_board_it_has_no_rank_but_sets_the_standing(finished):
    folder, _ = finished
    (board,) = load_boards(folder / "r")
    cells = {(cell.target, cell.attack): cell for cell in board.cells}
    whole = cells["skipnet-20-budget", "autoenergy"]
    assert whole.attack_rank is None
    assert cells["skipnet-20-budget", "mine"].attack_rank is not None
    assert whole.combination["budget"] == 48
    assert whole.recovery.value >= max(
        cell.recovery.value or 0
        for (target, _), cell in cells.items()
        if target == "skipnet-20-budget"
    )
    assert cells["skipnet-20-budget", "identity"].recovery.value == 0
    for (target, _), cell in cells.items():
        if target == "fbs-8" and cell.status == "ok":
            assert cell.adversarial_macs == cell.clean_macs == cell.ceiling, (
                "the fixed-budget control gives exactly nothing"
            )


def test_again_it_is_the_same_bytes(finished, tmp_path):
    folder, laid = finished
    shutil.copytree(folder / "r", tmp_path / "r")
    key, _ = cell_of(laid, "skipnet-20-budget", "autoenergy")
    before = {path.name: path.read_bytes() for path in laid.folder.cell(key).path.iterdir()}
    _, work = run(tmp_path, keep=True)
    assert go(work).is_clean
    assert {
        path.name: path.read_bytes() for path in (tmp_path / "r" / "cells" / key).iterdir()
    } == before


@pytest.mark.parametrize("mixed", ["threads", "target", "flag", None])
def test_members_made_differently_are_flagged(finished, tmp_path, monkeypatch, mixed):
    """As `merge --keep` puts them beside each other; each of them alone mixes nothing."""
    folder, laid = finished
    shutil.copytree(folder / "r", tmp_path / "r")
    there = RunFolder(tmp_path / "r")
    other, _ = cell_of(laid, "skipnet-20-budget", "genetic")
    key, _ = cell_of(laid, "skipnet-20-budget", "autoenergy")

    def made(shard):
        found = environment_of(shard)
        if shard.path.parent.name == other and mixed == "threads":
            return found | {"threads": found["threads"] + 1}
        if shard.path.parent.name == other and mixed == "target":
            return found | {"sources": found["sources"] | {"target": "another"}}
        return found

    monkeypatch.setattr("bench.runs.ensemble.environment_of", made)
    if mixed == "flag":
        document = json.loads((there.cell(other).path / "cell.json").read_text())
        document["flags"].append("mixed-environment")
        (there.cell(other).path / "cell.json").write_text(json.dumps(document))
    found = combined(there, key, laid.cells)
    assert ("mixed-environment" in found.flags) == (mixed is not None)


def test_a_member_without_numbers_fails_it_with_the_reason(finished, tmp_path, monkeypatch):
    """Nothing is called the strongest of an ensemble of which a part is missing."""
    folder, _ = finished
    shutil.copytree(folder / "r", tmp_path / "r")
    laid, work = run(tmp_path, keep=True)
    key, cell = cell_of(laid, "skipnet-20-budget", "genetic")
    seal(laid.folder.cell(key), cell, "timeout", "too slow")
    monkeypatch.setattr(Run, "_tasks", lambda self: [])
    outcome = go(work)
    whole, _ = cell_of(laid, "skipnet-20-budget", "autoenergy")
    assert outcome.statuses[whole] == "failed"
    assert "skipnet-20-budget / genetic is timeout" in laid.folder.cell(whole).sealed().reason
    assert laid.folder.cell(whole).shards() == []


@pytest.mark.parametrize("ends", [True, False], ids=["to-its-end", "stopped"])
def test_a_member_that_is_computed_again_is_combined_again(finished, tmp_path, monkeypatch, ends):
    """By a run of that member alone too; until then the ensemble has no numbers."""
    folder, _ = finished
    shutil.copytree(folder / "r", tmp_path / "r")

    def perturb(self, view, images, labels, job):
        if ends:
            return images.clone()
        raise KeyboardInterrupt

    # The strongest now finds nothing, so that the rows of all of its images are others'.
    monkeypatch.setattr("attacks.pry.Pry.perturb", perturb)
    laid, work = run(tmp_path, only=["skipnet-20-budget / pry"], fresh=True)
    key, _ = cell_of(laid, "skipnet-20-budget", "autoenergy")
    assert laid.folder.cell(key).sealed().combination.members[0].wins
    if ends:
        assert go(work).is_clean
        sealed, made = laid.folder.cell(key).sealed(), combined(laid.folder, key, laid.cells)
        assert laid.folder.cell(key).table().to_pylist() == list(made.rows)
        assert sealed.combination == made.combination
    else:
        with pytest.raises(KeyboardInterrupt):
            go(work)
        assert laid.folder.cell(key).sealed() is None


def candidate(macs, squared, spent=10, trace=()):
    points = [{"evaluations": at, "macs": found, "squared": near} for at, found, near in trace]
    counts = {"evaluations": spent, "forwards": 1, "backwards": 2, "held": 3, "flipped": 1}
    return {"adversarial_macs": macs, "squared": squared, "trace": points, **counts}


def test_most_macs_then_nearest_then_earliest():
    for found, winner in (
        ([candidate(5, 9), candidate(7, 99), candidate(6, 1)], 1),
        ([candidate(7, 9), candidate(7, 8), candidate(7, 8)], 1),
        ([candidate(7, 8), candidate(7, 8)], 0),
    ):
        row, place = strongest(found)
        assert place == winner
        assert (row["evaluations"], row["held"], row["flipped"]) == (
            10 * len(found),
            3 * len(found),
            len(found),
        )


def test_traces_are_joined_in_turn_and_keep_what_rises():
    first = candidate(7, 5, 10, [(1, 4, 9.0), (6, 7, 5.0)])
    second = candidate(8, 3, 10, [(1, 4, 1.0), (2, 7, 6.0), (5, 7, 4.0), (9, 8, 3.0)])
    joined = trace_in_turn([first, second])
    assert joined == [(1, 4, 9.0), (6, 7, 5.0), (15, 7, 4.0), (19, 8, 3.0)]
    row, _ = strongest([first, second])
    assert [(p["evaluations"], p["macs"], p["squared"]) for p in row["trace"]] == joined


def test_the_trace_of_an_ensemble_is_thinned_and_names_no_point_twice():
    many = candidate(900, 1, 100, [(i, i, 1.0) for i in range(100)])
    flat = candidate(900, 1, 100, [(i, 5, 100.0 - i) for i in range(99)] + [(99, 900, 1.0)])
    for found in (many, flat):
        points = [point["evaluations"] for point in strongest([found])[0]["trace"]]
        assert len(points) <= 32
        assert points == sorted(set(points))
        assert points[-1] == 99
