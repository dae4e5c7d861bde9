"""Two runs side by side, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from measured import baseline, cell, with_cells

from bench.errors import NotComparable
from bench.regression.compare import compare


def test_dearer_and_cheaper_are_counted_and_the_largest_come_first():
    one = cell(np.random.default_rng(0), n=10)
    macs = np.full(10, 500)
    before = replace(one, adversarial_macs=macs)
    now = replace(one, adversarial_macs=macs + np.array([0, 100, -200, 0, 300, 0, 0, 0, 0, 0]))
    (change,) = compare(baseline([before], n=10), baseline([now], n=10)).changes
    assert (change.dearer, change.cheaper) == (2, 1)
    assert change.largest(2) == [4, 2]
    assert change.largest(9) == [4, 2, 1]
    assert change.cost.value == pytest.approx(0.02)
    document = change.document()
    assert document["changed"][0] == {"id": "i4", "before": 500, "now": 800}


def test_only_common_images_and_cells_count_and_the_rest_is_named():
    generator = np.random.default_rng(1)
    one, two = cell(generator, n=10), cell(generator, n=10, target="other")
    before = baseline([one, two], n=10)
    shorter = with_cells(
        baseline([one], n=10),
        lambda found: replace(
            found,
            **{
                name: getattr(found, name)[2:]
                for name in (
                    "clean_macs",
                    "adversarial_macs",
                    "clean_correct",
                    "adversarial_correct",
                )
            },
        ),
    )
    part = replace(
        shorter.boards[0],
        ids=shorter.boards[0].ids[2:],
        protocol=replace(shorter.boards[0].protocol, budget=9),
    )
    found = compare(before, replace(shorter, boards=(part,)))
    (change,) = found.changes
    assert change.ids == tuple(f"i{k}" for k in range(2, 10))
    assert change.dearer == change.cheaper == 0
    assert any("both have 8 images, of 10 and 8" in note for note in found.notes)
    assert any("only in the first: other / gradauto" in note for note in found.notes)
    assert any("budget 60 and 9" in note for note in found.notes)


def test_nothing_in_common_is_refused():
    generator = np.random.default_rng(2)
    with pytest.raises(NotComparable, match="no cell in common"):
        compare(baseline([cell(generator)]), baseline([cell(generator, target="other")]))


def test_boards_of_the_same_terms_belong_together_whatever_their_order():
    one = cell(np.random.default_rng(3))
    first = baseline([one])
    other = replace(first.boards[0], protocol=replace(first.boards[0].protocol, seed=1))
    found = compare(replace(first, boards=(other, *first.boards)), first)
    assert [change.boards for change in found.changes] == [(1, 0)]
    assert any("no board for" in note and "seed 1" in note for note in found.notes)
    assert not any("measured otherwise" in note for note in found.notes)


def test_what_changed_beside_the_numbers_is_named():
    one = cell(np.random.default_rng(4))
    inputs = {**one.inputs, "target": {**one.inputs["target"], "weights": "w2"}}
    found = compare(baseline([one]), baseline([replace(one, inputs=inputs, reference=2000)]))
    assert any("weights changed" in note for note in found.notes)
    assert any("its ceiling was" in note for note in found.notes)
