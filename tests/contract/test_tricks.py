"""Defenses that only seem to help: found out as invalid, flagged where the number stands, or
without any gain in the ranking."""

import pytest

from bench.results.board import load_boards

PLAN = """
schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 6
batch = 6
threat = { norm = "linf", eps = "24/255" }
budget = 40
audit = 3
[run]
device = "cpu"
shard = 6
[[target]]
use = "toy-ste"
weights = "random:0"
[[attack]]
use = "still"
[[attack]]
use = "gradauto"
"""
INVALID = {
    "another-network": "`undefended` has a ceiling of 356190 MACs, the network that it defends one of 35619",
    "under-gradients": "where gradients are asked for",
    "price-in-company": "in its batch, ptflops counts",
    "idle-gate": "this is more than float noise",
    "remembers": "its outputs changed after it was queried",
    "pretends-to-draw": "other seeds give the same logits and margins",
}
FLAGGED = {
    "rounding": "zero-gradient",
    "masks-off": "hard-masks",
    "masks-swallowed": "hard-masks",
    "saturated": "saturated-gates",
    "saturated-unseen": "saturated-gates",
    "backwards": "misleading-gradient",
}
HARMLESS = ("none", "dearer")
SHAME = set(FLAGGED.values()) | {"black-box-leads", "transfer-leads"}


@pytest.fixture
def board(gatebench, tmp_path):
    tricks = [*INVALID, *FLAGGED, *HARMLESS]
    text = PLAN + "".join(
        f'[[defense]]\nuse = "trick"\nlabel = "{name}"\nparams = {{ trick = "{name}" }}\n'
        for name in tricks
    )
    (tmp_path / "plan.toml").write_text(text)
    code, out, err = gatebench("run", "plan.toml", "--name", "r", "--in-process", "--no-report")
    assert code == 4, out + err  # the invalid ones
    return load_boards(tmp_path / "runs" / "r")[0]


@pytest.mark.slow  # fifteen defenses, each attacked and audited
def test_tricks_do_not_help(board):
    attacked = {cell.defense: cell for cell in board.cells if cell.attack == "gradauto"}
    for name, reason in INVALID.items():
        assert attacked[name].status == "invalid", name
        assert reason in attacked[name].reason, (name, attacked[name].reason)
    for name, flag in FLAGGED.items():
        assert attacked[name].status == "ok", (name, attacked[name].reason)
        assert flag in attacked[name].flags, (name, attacked[name].flags)
    for name in HARMLESS:
        assert attacked[name].status == "ok", (name, attacked[name].reason)
        assert not SHAME & set(attacked[name].flags), (name, attacked[name].flags)
    assert not SHAME & set(attacked[""].flags)

    assert attacked["none"].adversarial_macs == attacked[""].adversarial_macs
    assert attacked[""].adversarial_macs > attacked[""].clean_macs

    bare, dearer = attacked[""], attacked["dearer"]
    assert dearer.reference == bare.reference
    assert dearer.clean_macs == bare.clean_macs + 3 * 8 * 8 * 27
    assert dearer.surviving_saving.value < bare.surviving_saving.value
    places = [standing.defense for standing in board.standings if standing.rank is not None]
    assert places.index("dearer") > places.index("")
    still = next(
        cell for cell in board.cells if cell.attack == "still" and cell.defense == "dearer"
    )
    assert still.recovery.value == 0
