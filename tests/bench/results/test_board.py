"""Hand-made cells, and the numbers of their board worked out by hand."""

import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from bench.codec import png
from bench.errors import NotComparable, RunFolderError
from bench.plans.resolve import load_plan
from bench.regression.baseline import Baseline
from bench.results import stats
from bench.results.board import load_boards
from bench.runs.layout import lay_out
from bench.runs.seal import seal
from bench.store.documents import write_json
from bench.store.sealed import FitNote
from bench.store.target import (
    DatasetWords,
    FloatNoise,
    GradientCounts,
    TargetDescription,
    UnitColumns,
)
from reports.answers import answers
from reports.tables import render_table

pytestmark = pytest.mark.usefixtures("plugins")

PLAN = """
[protocol]
dataset = "toy-pixels:test"
images = {images}
batch = 2
threat = {threat}
budget = 9
[[target]]
use = "toy"
weights = "random:0"
label = "one"
[[target]]
use = "toy"
weights = "random:1"
label = "two"
[[attack]]
use = "wander"
label = "weak"
[[attack]]
use = "wander:bold"
label = "strong"
[[attack]]
use = "still"
[[exclude]]
target = "two"
attack = "still"
reason = "not today"
"""
LINF = '{ norm = "linf", eps = "8/255" }'
FLOOR, CEILING = 1000, 5000
BEFORE, AFTER = (png(torch.full((3, 8, 8), gray, dtype=torch.uint8)) for gray in (90, 110))
DESCRIPTION = TargetDescription(
    floor=FLOOR,
    ceiling=CEILING,
    reference=CEILING,
    bound=CEILING,
    draws=1,
    noise=FloatNoise(0.0, 0.0),
    classes=("a", "b"),
    dataset=DatasetWords("toy-pixels:test", "for tests", ("numpy",)),
    control=False,
    units=UnitColumns(
        name=("block0", "block1", "block2"),
        kind=("block",) * 3,
        owner=("b",) * 3,
        shape=((),) * 3,
        cost=(1,) * 3,
        threshold=(0.5,) * 3,
    ),
    gradients=GradientCounts(0, 0, 0, 0, 0, False),
    image_shape=(3, 8, 8),
)


def psnr_of(squared):
    return 10 * math.log10(255**2 * 3 * 8 * 8 / squared) if squared else 120.0


def row(
    i,
    clean,
    adversarial,
    unrounded,
    squared=0,
    units=(0b0100_0000, 0b1110_0000),
    right=(True, False),
):
    return {
        "id": f"test-{i}",
        "label": 1,
        "clean_prediction": 1 if right[0] else 0,
        "adversarial_prediction": 1 if right[1] else 0,
        "clean_macs": clean,
        "adversarial_macs": adversarial,
        "float_macs": unrounded,
        "clean_decisions": bytes([units[0]]),
        "adversarial_decisions": bytes([units[1]]),
        "linf": min(3, math.isqrt(squared)),
        "squared": squared,
        "l2": math.sqrt(squared) / 255,
        "psnr": psnr_of(squared),
        "ssim": 0.5 + i / 100,
        "evaluations": 9,
        "forwards": 3,
        "backwards": 3,
        "near_threshold": 0,
        "overshoot": False,
        "trace": [
            {"evaluations": 1, "macs": clean, "squared": 0.0},
            {"evaluations": 9, "macs": adversarial, "squared": float(squared)},
        ],
        "image": {"bytes": BEFORE, "path": None},
        "adversarial": {"bytes": AFTER, "path": None},
    }


@pytest.fixture
def world(tmp_path):
    """A run folder whose cells are filled by hand: `fill(target, attack, rows)`, then `board()`."""

    class World:
        def __init__(self, images=4, threat=LINF):
            (tmp_path / "plan.toml").write_text(PLAN.format(images=images, threat=threat))
            self.laid = lay_out(
                load_plan(tmp_path / "plan.toml"),
                tmp_path / "runs",
                "r",
                "gatebench run plan.toml",
                None,
            )
            self.laid.folder.create()
            self.laid.write()
            self.folder = tmp_path / "runs" / "r"

        def cell(self, target, attack):
            for key, cell in self.laid.cells.items():
                if (cell.target.label, cell.attack.label) == (target, attack):
                    return self.laid.folder.cell(key, create=True), cell
            raise LookupError

        def fill(self, target, attack, rows, status="ok", reason=""):
            folder, cell = self.cell(target, attack)
            if status == "ok":
                write_json(folder.path / "target.json", DESCRIPTION.document())
                folder.write_shard(0, len(rows) - 1, rows, {"threads": 1})
            return seal(folder, cell, status, reason)

        def board(self):
            (board,) = load_boards(self.folder)
            return board, {(cell.target, cell.attack): cell for cell in board.cells}

    return World


def test_numbers_by_hand(world):
    made = world()
    rows = [
        row(0, 2000, 3000, 3500, 100),
        row(1, 4000, 4000, 4200, 0),
        row(2, 1000, 5000, 5000, 300),
        row(3, 3000, 2000, 3000, 400),
    ]
    made.fill("one", "weak", rows)
    board, cells = made.board()
    cell = cells["one", "weak"]
    assert (cell.status, cell.n, cell.floor, cell.ceiling) == ("ok", 4, 1000, 5000)
    assert (cell.clean_macs, cell.adversarial_macs, cell.float_macs) == (2500, 3500, 3925)
    assert cell.recovery.value == pytest.approx(1000 / 2500), "ratio of means"
    assert cell.float_recovery.value == pytest.approx(1425 / 2500)
    assert cell.mean_recovery.value == pytest.approx(np.mean([1 / 3, 0, 1, -0.5])), (
        "a negative image counts as it is"
    )
    assert cell.recovery.low < 0.4 < cell.recovery.high
    assert cell.clean_saving.value == pytest.approx(0.5)
    assert cell.surviving_saving.value == pytest.approx(0.3)
    assert (cell.clean_efficacy.value, cell.adversarial_efficacy.value) == pytest.approx(
        (0.625, 0.375)
    )
    assert cell.block_recovery == pytest.approx((3 - 1) / (3 - 1)), (
        "two of two skipped blocks are run again"
    )
    assert (cell.clean_accuracy.value, cell.adversarial_accuracy.value, cell.agreement.value) == (
        1,
        0,
        0,
    )
    assert cell.clean_accuracy.low == pytest.approx(stats.wilson(4, 4)[0]), "all agree: Wilson"
    values = 3 * 8 * 8
    assert cell.pooled_psnr == pytest.approx(10 * math.log10(255**2 * values / 200))
    assert cell.psnr == pytest.approx(np.mean([rows[i]["psnr"] for i in range(4)]))
    assert cell.linf == 3
    assert cell.l2 == pytest.approx(np.mean([10, 0, math.sqrt(300), 20]) / 255)
    assert cell.ssim == pytest.approx(0.515)
    assert cell.evaluations == 9
    assert board.preliminary
    assert (board.dataset, board.dataset_note, board.credits) == (
        "toy-pixels:test",
        "for tests",
        ("numpy",),
    )


def test_rows_are_loaded_when_asked_for(world):
    made = world()
    made.fill("one", "weak", [row(i, 2000, 3000, 3000, 100) for i in range(4)])
    first = made.board()[1]["one", "weak"].rows()[0]
    assert first.clean_decisions == (False, True, False)
    assert first.adversarial_decisions == (True, True, True)
    assert (first.image, first.adversarial) == (BEFORE, AFTER)
    assert first.trace == ((1, 2000, 0.0), (9, 3000, 100.0))


@pytest.mark.parametrize(
    ("held", "flipped", "rate"),
    [(8, 2, 0.25), (8, None, None), (None, 2, None), (0, 0, None)],
    ids=["both", "held-alone", "flipped-alone", "none-open"],
)
def test_a_rate_of_flips_needs_both_counts(world, held, flipped, rate):
    made = world()
    counts = {"held": held, "flipped": flipped}
    made.fill("one", "weak", [row(i, 2000, 3000, 3000, 1) | counts for i in range(4)])
    _, cells = made.board()
    assert cells["one", "weak"].flip_rate == rate


def test_negative_recovery_is_not_clipped(world):
    made = world()
    made.fill("one", "weak", [row(i, 3000, 2000, 2000, 1) for i in range(4)])
    cell = made.board()[1]["one", "weak"]
    assert (cell.recovery.value, cell.recovery.low, cell.recovery.high) == pytest.approx(
        (-0.5, -0.5, -0.5)
    )


@pytest.mark.parametrize(("clean", "defined"), [(4950, True), (4951, False), (5000, False)])
def test_recovery_is_undefined_under_one_percent_reserve(world, clean, defined):
    made = world()
    made.fill("one", "weak", [row(i, clean, 5000, 5000, 1) for i in range(4)])
    cell = made.board()[1]["one", "weak"]
    assert cell.recovery == stats.UNDEFINED or defined
    assert cell.recovery.value == (pytest.approx(1.0) if defined else None)
    assert cell.float_recovery.value == cell.recovery.value
    assert cell.adversarial_macs == 5000, "the MACs themselves are always there"


def test_an_unchanged_cell_has_no_pooled_psnr(world):
    made = world()
    made.fill("one", "still", [row(i, 2000, 2000, 2000, 0) for i in range(4)])
    cell = made.board()[1]["one", "still"]
    assert cell.pooled_psnr is None
    assert cell.control
    assert (cell.recovery.value, cell.recovery.low, cell.recovery.high) == (0, 0, 0)


def test_only_sealed_cells_have_numbers(world):
    made = world()
    made.fill("one", "weak", [], "invalid", "it lied")
    made.fill("one", "strong", [], "timeout", "too slow")
    _, cells = made.board()
    assert {key: (cell.status, cell.reason) for key, cell in cells.items()} == {
        ("one", "weak"): ("invalid", "it lied"),
        ("one", "strong"): ("timeout", "too slow"),
        ("one", "still"): ("missing", "not run yet, or not finished"),
        ("two", "weak"): ("missing", "not run yet, or not finished"),
        ("two", "strong"): ("missing", "not run yet, or not finished"),
        ("two", "still"): ("skipped", "not today"),
    }
    assert all(
        cell.adversarial_macs is None and cell.recovery == stats.UNDEFINED
        for cell in cells.values()
    )
    assert all(cell.attack_rank is None for cell in cells.values())


def spread(mean, n=40, seed=0, width=200):
    noise = np.random.default_rng(seed).integers(-width, width + 1, n)
    return (mean + noise - round(float(noise.mean()))).tolist()


def filled(made):
    for target, base in (("one", 2000), ("two", 3000)):
        clean = spread(base, seed=1)
        for attack, gain, seed in (("weak", 300, 2), ("strong", 900, 3), ("still", 0, None)):
            if (target, attack) == ("two", "still"):
                continue
            gains = [0] * 40 if seed is None else spread(gain, seed=seed)
            made.fill(
                target,
                attack,
                [
                    row(i, c, c + g, c + g, 50)
                    for i, (c, g) in enumerate(zip(clean, gains, strict=True))
                ],
            )
    return made.board()


def test_ranks_by_paired_tests(world):
    board, cells = filled(world(images=40))
    assert board.ranked
    assert {key: cell.attack_rank for key, cell in cells.items()} == {
        ("one", "weak"): 2,
        ("one", "strong"): 1,
        ("one", "still"): None,
        ("two", "weak"): 2,
        ("two", "strong"): 1,
        ("two", "still"): None,
    }
    assert [
        (standing.target, standing.rank, standing.strongest) for standing in board.standings
    ] == [
        ("one", 1, "strong"),
        ("two", 2, "strong"),
    ]
    assert board.standings[0].surviving_saving.value == pytest.approx(1 - 2900 / 5000, abs=1e-3)


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_a_target_that_stood_controls_alone_is_not_ranked(world, status):
    """Nobody attacked it: what noise leaves of its saving is no robustness."""
    made = world(images=40)
    filled(made)
    for target in ("one", "two"):
        for attack in ("weak", "strong"):
            folder, cell = made.cell(target, attack)
            folder.clear()
            seal(folder, cell, status, "for a reason")
    board, cells = made.board()
    assert cells["one", "still"].control
    assert cells["one", "still"].status == "ok"
    for standing in board.standings:
        assert (standing.rank, standing.strongest) == (None, None)
        assert standing.surviving_saving == stats.UNDEFINED
    assert {one.target: one.clean_saving.value is not None for one in board.standings} == {
        "one": True,
        "two": False,
    }
    assert answers(board)[0].detail == "No target has a finished attack yet."


@pytest.mark.parametrize("status", ["missing", "failed", "timeout", "oom", "invalid", "skipped"])
def test_a_target_that_an_attack_was_not_finished_on_is_not_ranked(world, status):
    """It had fewer attacks to stand than the others; who does not admit an attack lacks nothing."""
    made = world(images=40)
    filled(made)
    folder, cell = made.cell("one", "strong")
    folder.clear()
    if status != "missing":
        seal(folder, cell, status, "for a reason")
    board, _ = made.board()
    said = answers(board)[0]
    found = {one.target: (one.rank, one.strongest, one.lacks) for one in board.standings}
    if status == "skipped":
        assert found == {"one": (1, "weak", ()), "two": (2, "strong", ())}
        assert said.answer == "one"
        return
    assert found == {"one": (None, "weak", ("strong",)), "two": (1, "strong", ())}
    assert [one.target for one in board.standings] == ["two", "one"]
    assert said.answer == "two"
    assert said.detail.endswith("came to no end there or were not run: one (strong).")


def test_where_every_target_lacks_an_attack_none_is_called_most_robust(world):
    made = world(images=40)
    filled(made)
    for target, attack in (("one", "strong"), ("two", "weak")):
        made.cell(target, attack)[0].clear()
    board, _ = made.board()
    assert [one.rank for one in board.standings] == [None, None]
    said = answers(board)[0]
    assert said.answer == "not ranked"
    assert "one (strong), two (weak)" in said.detail


def test_nothing_is_ranked_without_a_ball(world):
    board, cells = filled(world(images=40, threat='"none"'))
    assert not board.ranked
    assert all(cell.attack_rank is None for cell in cells.values())
    assert all(standing.rank is None for standing in board.standings)


def test_rows_that_do_not_differ_share_a_rank(world):
    made = world(images=40)
    clean = spread(2000, seed=1)
    for attack, seed in (("weak", 4), ("strong", 5)):
        gains = spread(500, seed=seed)
        made.fill(
            "one",
            attack,
            [
                row(i, c, c + g, c + g, 50)
                for i, (c, g) in enumerate(zip(clean, gains, strict=True))
            ],
        )
    _, cells = made.board()
    assert cells["one", "weak"].attack_rank == cells["one", "strong"].attack_rank == 1


def test_what_is_no_run_is_refused(world, tmp_path):
    with pytest.raises(RunFolderError, match="is not there"):
        load_boards(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("cell.json", "{", "cell.json cannot be read"),
        ("cell.json", '{"schema": 99}', "upgrade|schema 99"),
        ("cell.json", "[]", "no document of gatebench"),
        ("cell.json", '{"schema": 1, "key": 3}', "no record of a cell: inputs|key"),
        ("target.json", None, "target.json is not there"),
        ("target.json", "{}", "no description of a target"),
    ],
    ids=["cut", "newer", "list", "foreign", "no-target", "empty-target"],
)
def test_a_damaged_document_costs_its_cell_and_no_other(world, name, text, said):
    made = world()
    rows = [row(i, 2000, 3000, 3000, 1) for i in range(4)]
    made.fill("one", "weak", rows)
    made.fill("one", "strong", rows)
    folder, _ = made.cell("one", "weak")
    if text is None:
        (folder.path / name).unlink()
    else:
        (folder.path / name).write_text(text)
    _, cells = made.board()
    assert cells["one", "weak"].status == "invalid"
    assert re.search(said, cells["one", "weak"].reason)
    assert cells["one", "weak"].adversarial_macs is None
    assert cells["one", "strong"].status == "ok"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("headroom.json", "[]"),
        ("latency.json", '{"schema": 1'),
        ("transfer.parquet", "PAR1 of nothing"),
    ],
    ids=["headroom", "latency", "transfer"],
)
def test_a_damaged_measurement_beside_the_cells_is_said_and_the_board_goes_on(world, name, text):
    made = world(images=40)
    before, _ = filled(made)
    (made.folder / name).write_text(text)
    board, _ = made.board()
    (reason,) = board.unreadable
    assert name in reason
    assert before.unreadable == ()
    assert board.standings == before.standings
    console = Console(width=200, file=io.StringIO())
    console.print(render_table(board, 200))
    assert name in console.file.getvalue()


def test_a_cell_about_other_images_than_the_rest_is_invalid(world):
    made = world()
    for target, attack in (("one", "weak"), ("one", "strong"), ("two", "weak")):
        first = 1 if attack == "strong" else 0
        made.fill(target, attack, [row(i + first, 2000, 3000, 3000, 1) for i in range(4)])
    _, cells = made.board()
    assert cells["one", "strong"].status == "invalid"
    assert "other images" in cells["one", "strong"].reason
    assert cells["one", "strong"].recovery == stats.UNDEFINED
    assert cells["one", "weak"].status == cells["two", "weak"].status == "ok"


@pytest.mark.parametrize("places", [(0, 1, 2), (0, 1, 2, 2)], ids=["one-missing", "one-twice"])
def test_a_cell_is_never_sealed_ok_without_a_row_for_each_image(world, places):
    made = world()
    with pytest.raises(ValueError, match="it holds 3 images, its protocol says 4"):
        made.fill("one", "weak", [row(i, 2000, 3000, 3000, 1) for i in places])
    folder, _ = made.cell("one", "weak")
    assert folder.sealed() is None


SENSELESS = {
    "macs-below-floor": ({"clean_macs": 999}, "outside the floor and bound of its target"),
    "macs-above-bound": ({"adversarial_macs": 5001}, "outside the floor and bound of its target"),
    "macs-negative": ({"float_macs": -1}, "float_macs is -1 in one"),
    "macs-of-64-bits": ({"jpeg_macs": 2**62}, "jpeg_macs is 4611686018427387904 in one"),
    "sum-of-64-bits": ({"squared": 2**62}, "squared is 4611686018427387904 in one"),
    "label-negative": ({"label": -1}, "label is -1 in one"),
    "prediction-negative": ({"adversarial_prediction": -7}, "adversarial_prediction is -7 in one"),
    "linf-256": ({"linf": 256}, "linf is 256 in one"),
    "squared-negative": ({"squared": -1}, "squared is -1 in one"),
    "l2-huge": ({"l2": 1e308}, "l2 is 1e.308 in one"),
    "psnr-beyond-cap": ({"psnr": 120.5}, "psnr is 120.5 in one"),
    "psnr-nan": ({"psnr": math.nan}, "psnr is no finite number"),
    "ssim-7": ({"ssim": 7.0}, "ssim is 7.0 in one"),
    "evaluations-negative": ({"evaluations": -3}, "evaluations is -3 in one"),
    "near-threshold-negative": ({"near_threshold": -1}, "near_threshold is -1 in one"),
    "ledger-zeroed": ({"evaluations": 0}, "evaluations are not its passes: 0, 9 by its passes"),
    "budget-overspent": (
        {"evaluations": 10**6, "forwards": 10**6, "backwards": 0},
        "used 1000000 of 9 forward-equivalents",
    ),
    "linf-outside": (
        {"linf": 200, "squared": 40000, "l2": 200 / 255, "psnr": psnr_of(40000)},
        "lies outside linf<=8/255: linf 200, squared 40000",
    ),
    "linf-of-unchanged": ({"linf": 8, "squared": 0, "l2": 0.0, "psnr": 120.0}, "linf 8 does not"),
    "squared-of-unchanged": ({"linf": 0, "squared": 9}, "squared is 9, which linf 0 does not"),
    "squared-beyond-linf": ({"linf": 1, "squared": 193}, "squared is 193, which linf 1 does not"),
    "l2-of-another": ({"l2": 50.0}, "l2 is 50, its squared makes 0.00392"),
    "psnr-of-another": ({"psnr": 30.0}, "psnr is 30, its squared makes 70.9"),
    "label-beyond": ({"label": 77}, "label is 77, of 2 classes"),
    "clean-beyond": ({"clean_prediction": 2}, "clean_prediction is 2, of 2 classes"),
    "class-beyond": ({"adversarial_prediction": 5000}, "adversarial_prediction is 5000, of 2"),
    "near-beyond-units": ({"near_threshold": 7}, "near_threshold is 7, of 3 units"),
    "flipped-beyond-held": ({"held": 3, "flipped": 4}, "flipped is more than held"),
}


@pytest.mark.parametrize("case", SENSELESS)
def test_numbers_that_cannot_be_meant_reach_no_board(world, monkeypatch, case):
    """Neither where a cell is sealed, nor where somebody else sealed it."""
    values, said = SENSELESS[case]
    rows = [row(i, 2000, 3000, 3000, 1) for i in range(4)]
    rows[2] |= values
    made = world()
    with pytest.raises(ValueError, match=said):
        made.fill("one", "weak", rows)
    made.fill("one", "strong", [row(i, 2000, 3000, 3000, 1) for i in range(4)])
    with monkeypatch.context() as lenient:
        lenient.setattr("bench.runs.seal.check_measured", lambda *ignored: None)
        made.fill("one", "weak", rows)
    _, cells = made.board()
    assert cells["one", "weak"].status == "invalid"
    assert re.search(said, cells["one", "weak"].reason)
    assert cells["one", "weak"].adversarial_macs is None
    assert cells["one", "strong"].status == "ok"


TOLD_APART = {
    "one-label-for-two": (("attack", "still"), "weak", "two cells are called 'one / weak'"),
    "look-alike": (("attack", "still"), "we\u200bak", "looks like 'weak'"),
    "hidden": (("attack", "still"), "a\x1b[2J", "characters that cannot be shown"),
    "blank": (("attack", "still"), " ", "is blank"),
    "empty": (("target", "two"), "", "is blank"),
    "one-target-for-two": (("target", "two"), "one", "two cells are called|two targets are called"),
}


@pytest.mark.parametrize("case", TOLD_APART)
def test_a_plan_whose_labels_cannot_be_told_apart_is_refused(world, case):
    (kind, before), after, said = TOLD_APART[case]
    path = world().folder / "plan.json"
    document = json.loads(path.read_text())
    for cell in document["boards"][0]["cells"]:
        if cell[kind]["label"] == before:
            cell[kind]["label"] = after
    path.write_text(json.dumps(document))
    with pytest.raises(RunFolderError, match=said):
        load_boards(path.parent)


def test_sealing_holds_the_rows_against_the_images_of_the_run(world):
    made = world()
    folder, cell = made.cell("one", "weak")
    made.fill("one", "weak", [row(i, 2000, 3000, 3000, 1) for i in range(4)])
    ids = [f"test-{i}" for i in range(4)]
    assert seal(folder, cell, "ok", ids=ids).status == "ok"
    with pytest.raises(ValueError, match="other images than its protocol"):
        seal(folder, cell, "ok", ids=ids[::-1])


def forgetting(made):
    """A target whose two cells give another clean result for one image, beside a sound one."""
    rows = [row(i, 2000 + i, 3000, 3000) for i in range(4)]
    made.fill("one", "weak", rows)
    made.fill("one", "strong", [*rows[:3], row(3, 2500, 3000, 3000)])
    made.fill("two", "weak", rows)
    return made


def test_a_target_whose_clean_results_differ_between_cells_is_invalid(world):
    made = forgetting(world())
    _, cells = made.board()
    assert cells["two", "weak"].status == "ok"
    for attack in ("weak", "strong"):
        found = cells["one", attack]
        assert (found.status, found.recovery.value) == ("invalid", None)
        assert "clean result of test-3 differs" in found.reason


@pytest.mark.parametrize(
    ("changed", "fits", "status", "sees"),
    [
        ({}, False, "ok", "gates"),
        ({"backwards": 0, "evaluations": 3}, False, "ok", "macs"),
        ({"backwards": 0, "evaluations": 3}, True, "ok", "gates"),
        ({}, False, "skipped", "gates"),
    ],
    ids=["gradients", "forwards-alone", "gradients-in-its-fit", "not-run"],
)
def test_who_sees_macs_alone(world, changed, fits, status, sees):
    """Gradients that an attack took before, on other images, are seen too."""
    made = world()
    folder, _ = made.cell("one", "weak")
    if fits:
        write_json(folder.path / "fit.json", FitNote(8, 240, "0" * 64).document())
    made.fill(
        "one", "weak", [row(i, 2000, 3000, 3000) | changed for i in range(4)], status, "not for it"
    )
    _, cells = made.board()
    assert (cells["one", "weak"].status, cells["one", "weak"].sees) == (status, sees)


@pytest.mark.parametrize(
    ("command", "repeats"),
    [
        ("gatebench run plan.toml", "gatebench run plan.toml --only 'one / weak'"),
        ("gatebench run a && gatebench run b", "gatebench run a && gatebench run b"),
        ("gatebench beat r 0123456789ab", "gatebench beat r 0123456789ab"),
        ("bench.evaluate(…)", "bench.evaluate(…)"),
    ],
    ids=["run", "merged", "beat", "program"],
)
def test_the_command_that_repeats_a_cell_can_be_run(world, command, repeats):
    made = world()
    made.fill("one", "weak", [row(i, 2000, 3000, 3000) for i in range(4)])
    plan = json.loads((made.folder / "plan.json").read_text())
    (made.folder / "plan.json").write_text(json.dumps(plan | {"command": command}))
    assert made.board()[1]["one", "weak"].command == repeats


@pytest.mark.parametrize("name", ["floor", "ceiling", "reference"])
def test_a_target_whose_cells_name_other_costs_is_invalid(world, name):
    """Its rows agree, and its savings would be measured against two ceilings."""
    made = world()
    for attack in ("weak", "strong"):
        made.fill("one", attack, [row(i, 2000 + i, 3000, 3000) for i in range(4)])
    folder, cell = made.cell("one", "strong")
    folder.remove(["cell.json"])
    changed = {"floor": DESCRIPTION.floor + 1, "ceiling": DESCRIPTION.ceiling - 1}
    changed["reference"] = DESCRIPTION.reference - 1
    described = replace(DESCRIPTION, **{name: changed[name]})
    write_json(folder.path / "target.json", described.document())
    seal(folder, cell, "ok")
    _, cells = made.board()
    assert {cells["one", attack].status for attack in ("weak", "strong")} == {"invalid"}


def test_no_baseline_is_made_of_a_target_that_keeps_state(world):
    made = forgetting(world())
    with pytest.raises(NotComparable, match="one / weak is altered: the clean result of test-3"):
        Baseline.of_run(made.folder)
    (board,) = Baseline.of_run(made.folder, whole=False).boards
    assert [cell.label for cell in board.cells] == ["two / weak"]
    assert board.cells[0].clean_macs.tolist() == [2000, 2001, 2002, 2003]
    assert board.cells[0].clean_correct.tolist() == [True] * 4
    assert board.cells[0].adversarial_correct.tolist() == [False] * 4


def clean_of(made, *changes):
    """The statuses of two cells on one target whose last images have these changes."""
    rows = [row(i, 2000 + i, 3000, 3000) for i in range(4)]
    for attack, change in zip(("weak", "strong"), changes, strict=True):
        made.fill("one", attack, [*rows[:3], rows[3] | change])
    cells = made.board()[1]
    return {cells["one", attack].status for attack in ("weak", "strong")}


NEAR = {"near_threshold": 1}
ANOTHER = {"clean_macs": 2500, "clean_decisions": b"\x60"}
EXCUSES = {
    "a-margin-of-every-cell": (NEAR, NEAR | ANOTHER, True),
    "a-margin-of-the-other-alone": ({}, NEAR | ANOTHER, False),
    "macs-of-the-same-decisions": (NEAR, NEAR | {"clean_macs": 1500}, False),
    "a-prediction-of-the-same-decisions": (NEAR, NEAR | {"clean_prediction": 0}, False),
    "decisions-of-the-same-macs": ({}, {"clean_decisions": b"\x60"}, False),
    "more-units-than-margins": (NEAR, NEAR | ANOTHER | {"clean_decisions": b"\xa0"}, False),
    "as-many-units-as-margins": (
        {"near_threshold": 3},
        {"near_threshold": 3} | ANOTHER | {"clean_decisions": b"\xa0"},
        True,
    ),
}


@pytest.mark.parametrize("case", EXCUSES)
def test_float_noise_at_a_threshold_may_move_a_clean_result(world, case):
    first, second, excused = EXCUSES[case]
    assert clean_of(world(), first, second) == {"ok" if excused else "invalid"}


def test_a_gate_that_float_noise_moves_may_move_what_comes_after_it(world, monkeypatch):
    units = replace(DESCRIPTION.units, owner=("b0", "b1", "b2"))
    monkeypatch.setitem(globals(), "DESCRIPTION", replace(DESCRIPTION, units=units))
    assert clean_of(world(), NEAR, NEAR | ANOTHER | {"clean_decisions": b"\xa0"}) == {"ok"}


def boards_of(made, seeds):
    """The statuses on the two boards of a plan, whose clean results differ."""
    from bench.plans.stored import read_plan

    for board, change in zip(read_plan(made.laid.folder).boards, ({}, ANOTHER), strict=True):
        for key, cell in board.cells.items():
            if cell.labels == ("one", "", "weak"):
                folder = made.laid.folder.cell(key, create=True)
                write_json(folder.path / "target.json", DESCRIPTION.document())
                rows = [row(i, 2000, 3000, 3000) for i in range(4)]
                folder.write_shard(0, 3, [*rows[:3], rows[3] | change], {"threads": 1})
                seal(folder, cell, "ok")
    boards = load_boards(made.folder)
    assert [board.protocol["seed"] for board in boards] == seeds
    return [
        cell.status
        for board in boards
        for cell in board.cells
        if (cell.target, cell.attack) == ("one", "weak")
    ]


def test_clean_results_are_compared_over_all_boards_of_a_run(world):
    """A target that keeps state saves another share on each board of a run."""
    made = world(threat=f'[{LINF}, {{ norm = "linf", eps = "4/255" }}]')
    assert boards_of(made, [0, 0]) == ["invalid", "invalid"]


@pytest.mark.parametrize(
    ("draws", "status"), [(1, "invalid"), (3, "ok")], ids=["deterministic", "random"]
)
def test_random_targets_draw_other_clean_results_with_other_seeds(
    world, monkeypatch, draws, status
):
    monkeypatch.setitem(globals(), "DESCRIPTION", replace(DESCRIPTION, draws=draws))
    made = world(threat=f"{LINF}\nseeds = [0, 1]")
    assert boards_of(made, [0, 1]) == [status, status]
