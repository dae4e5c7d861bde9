"""Transfer on a real small run: the diagonal is what the cells sealed, the rest what the other
targets really execute."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bench.analysis.transfer import transfer
from bench.codec import decoded
from bench.errors import PlanError, RunFolderError
from bench.evaluation.build import build_target
from bench.image import to_float
from bench.plans.resolve import load_plan
from bench.results.board import _transfers, load_boards
from bench.results.transfer import TransferredMacs, read_transfer
from bench.runs.layout import lay_out
from bench.runs.run import Run
from bench.store.folder import RunFolder
from bench.submissions.withdraw import withdraw

PLAN = """
[protocol]
dataset = "digits-m:test"
images = 4
batch = 3
threat = { norm = "psnr", floor = 30 }
budget = 8
audit = 1
[run]
device = "cpu"
shard = 8
[[target]]
use = "skipnet"
params = { depth = 8 }
weights = "random:0"
[[target]]
use = "sdn"
params = { backbone = "resnet-8", threshold = 0.2 }
weights = "random:0"
[[attack]]
use = "gradauto"
[[attack]]
use = "deepsloth"
[[attack]]
use = "identity"
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    (folder / "plan.toml").write_text(PLAN)
    laid = lay_out(load_plan(folder / "plan.toml"), folder, "r", "gatebench run plan.toml", None)
    Run(laid, in_process=True)(lambda tasks, there: None, lambda event: None)
    return laid


def pairs_of(laid):
    return read_transfer(laid.folder, 0, laid.plan.boards[0])


def test_every_pair_by_executing_the_saved_pictures(done):
    said = []
    path = transfer(RunFolder(done.folder.path), attack="gradauto", tell=said.append)
    assert len(said) == 4
    assert pq.read_table(path).num_rows == 4 * 4
    pairs = {(pair.source, pair.victim): pair for pair in pairs_of(done)}
    assert len(pairs) == 4
    cells = {
        cell.target.label: (key, cell)
        for key, cell in done.cells.items()
        if cell.attack.label == "gradauto"
    }
    for source, (key, _) in cells.items():
        rows = done.folder.cell(key).table().to_pylist()
        assert pairs[source, source].macs.tolist() == [row["adversarial_macs"] for row in rows], (
            "the diagonal"
        )
        for victim, (_, other) in cells.items():
            target = build_target(other.target).eval()
            pictures = to_float(decoded([row["adversarial"]["bytes"] for row in rows], (32, 32)))
            with torch.no_grad():
                executed = [
                    int(target.macs(target.execute(picture[None]).decisions))
                    for picture in pictures
                ]
            assert pairs[source, victim].macs.tolist() == executed
    (board,) = load_boards(done.folder.path)
    shown = {(pair.source, pair.victim): pair for pair in board.transfers}
    for cell in board.cells:
        if cell.attack == "gradauto":
            assert shown[cell.target, cell.target].recovery.value == pytest.approx(
                cell.recovery.value
            )
            assert shown[cell.target, cell.target].macs == pytest.approx(cell.adversarial_macs)


def test_by_default_each_source_brings_its_dearest_attack(done):
    transfer(RunFolder(done.folder.path))
    (board,) = load_boards(done.folder.path)
    for pair in board.transfers:
        rivals = [cell for cell in board.cells if cell.target == pair.source and not cell.control]
        assert pair.attack == max(rivals, key=lambda cell: cell.adversarial_macs).attack


def test_what_came_from_cells_made_anew_is_not_shown(done):
    transfer(RunFolder(done.folder.path), attack="gradauto")
    key = next(key for key, cell in done.cells.items() if cell.attack.label == "gradauto")
    path = done.folder.cell(key).path / "cell.json"
    before = path.read_text()
    try:
        path.write_text(
            before.replace('"shards": {', '"shards": {"shard-90000-90001.parquet": "0",')
        )
        assert len(pairs_of(done)) == 2
    finally:
        path.write_text(before)
    assert len(pairs_of(done)) == 4


def test_what_a_target_made_anew_would_execute_is_not_shown(done):
    """The control of a target changes with the target alone."""
    transfer(RunFolder(done.folder.path), attack="gradauto")
    key, cell = next(
        (key, cell) for key, cell in done.cells.items() if cell.attack.label == "identity"
    )
    path = done.folder.cell(key).path / "cell.json"
    before = path.read_text()
    try:
        path.write_text(
            before.replace('"shards": {', '"shards": {"shard-90000-90001.parquet": "0",')
        )
        assert {pair.victim for pair in pairs_of(done)} == {
            other.defended for other in done.cells.values()
        } - {cell.defended}
    finally:
        path.write_text(before)
    assert len(pairs_of(done)) == 4


TWO_BOARDS = PLAN.replace("budget = 8", "budget = [4, 8]").replace("images = 4", "images = 2")


def renewed(folder, plan):
    """The run "r" of a folder after it was run with this plan under the same name."""
    (folder / "plan.toml").write_text(plan)
    terms = folder / "plan.toml", folder, "r", "gatebench run plan.toml", None
    laid = lay_out(load_plan(terms[0]), *terms[1:], renew=True)
    Run(laid, in_process=True, renew=True)(lambda tasks, there: None, lambda event: None)
    return laid


def shown_by_terms(laid):
    return {
        board.terms: {
            (pair.source, pair.victim): pair.macs.tolist()
            for pair in read_transfer(laid.folder, number, board)
        }
        for number, board in enumerate(laid.plan.boards)
    }


@pytest.mark.slow  # two boards, three times
def test_pairs_follow_their_cells_when_boards_and_labels_change_places(tmp_path):
    laid = renewed(tmp_path, TWO_BOARDS)
    transfer(RunFolder(laid.folder.path), attack="gradauto")
    before = shown_by_terms(laid)
    assert len(set(map(str, before.values()))) == 2  # the boards differ
    swapped = renewed(tmp_path, TWO_BOARDS.replace("[4, 8]", "[8, 4]"))
    assert list(shown_by_terms(swapped)) == list(before)[::-1]
    assert shown_by_terms(swapped) == before
    first, second = list(dict.fromkeys(cell.target.label for cell in laid.cells.values()))
    other = {first: second, second: first}
    plan = TWO_BOARDS.replace('use = "skipnet"', f'use = "skipnet"\nlabel = "{second}"')
    plan = plan.replace('use = "sdn"', f'use = "sdn"\nlabel = "{first}"')
    assert shown_by_terms(renewed(tmp_path, plan)) == {
        terms: {(other[one], other[two]): macs for (one, two), macs in pairs.items()}
        for terms, pairs in before.items()
    }


@pytest.mark.slow  # three networks; a victim made anew is quick
def test_another_target_under_the_label_of_a_victim_has_no_pairs(tmp_path):
    plan = PLAN.replace('use = "skipnet"', 'use = "skipnet"\nlabel = "net"')
    laid = renewed(tmp_path, plan)
    transfer(RunFolder(laid.folder.path), attack="gradauto")
    assert {pair.victim for pair in pairs_of(laid)} == {"net", *others_than("net", laid)}
    laid = renewed(tmp_path, plan.replace("depth = 8", "depth = 14"))
    assert {pair.victim for pair in pairs_of(laid)} == others_than("net", laid)


def others_than(label, laid):
    return {cell.defended for cell in laid.cells.values()} - {label}


def test_pairs_of_a_withdrawn_row_are_not_shown(done):
    transfer(RunFolder(done.folder.path), attack="gradauto")
    victims = {cell.defended for cell in done.cells.values()}
    for source in victims:
        withdraw(done.folder, f"{source} / gradauto", "made with the wrong mask")
        try:
            (board,) = load_boards(done.folder.path)
            assert {pair.source for pair in board.transfers} == victims - {source}
        finally:
            withdraw(done.folder, f"{source} / gradauto", "")


SPOILED = {
    "row-twice": (lambda rows: [*rows, rows[0]], "is there twice"),
    "image-left-out": (lambda rows: rows[1:], "images of "),
    "negative": (lambda rows: [{**rows[0], "macs": -1}], "macs is -1 in one of its rows"),
    "of-64-bits": (lambda rows: [{**rows[0], "macs": 2**62}], "macs is 4611686018427387904"),
    "no-column": (lambda rows: [{"board": 0, "source": "x"}], "has other columns than"),
    "text-for-macs": (lambda rows: [{**rows[0], "macs": "9"}], "has other columns than"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_transfers_that_cannot_be_meant_are_refused(done, case):
    change, said = SPOILED[case]
    path = transfer(RunFolder(done.folder.path), attack="gradauto")
    before, table = path.read_bytes(), pq.read_table(path)
    try:
        spoiled = pa.Table.from_pylist(change(table.to_pylist()))
        pq.write_table(spoiled.replace_schema_metadata(table.schema.metadata), path)
        with pytest.raises(RunFolderError, match=said):
            pairs_of(done)
    finally:
        path.write_bytes(before)


def test_mistakes(done, tmp_path):
    with pytest.raises(PlanError, match="did you mean 'gradauto'"):
        transfer(RunFolder(done.folder.path), attack="gradato")
    (tmp_path / "plan.toml").write_text(PLAN)
    empty = lay_out(
        load_plan(tmp_path / "plan.toml"), tmp_path, "r", "gatebench run plan.toml", None
    )
    empty.folder.create()
    empty.write()
    with pytest.raises(RunFolderError, match="no finished cell"):
        transfer(empty.folder)
    assert pairs_of(empty) == []


def test_a_victim_without_numbers_of_its_own_is_left_out():
    pair = TransferredMacs("one", "wander", "nobody", ("a",), np.array([5]))
    assert list(_transfers([pair], [], [])) == []
