"""Gate maps over blocks, positions, channels and exits."""

from __future__ import annotations

import base64
from dataclasses import replace

from synthetic import block_units, image_rows, map_units

from bench.results.row_table import RowTable
from bench.results.rows import ImageRow, UnitRow
from bench.store.schema import unpack as unpacked
from reports.html.gates import MOST_NAMED, gate_map, layout, openings, overview, owners


def row(before: list[bool], after: list[bool]) -> ImageRow:
    sample = image_rows(block_units(1), 1, strength=0.0, shift=0)[0]
    return replace(sample, clean_decisions=tuple(before), adversarial_decisions=tuple(after))


def unpack(text: str, units: int) -> list[bool]:
    """Packed bits as the page's script reads them."""
    return list(unpacked([base64.b64decode(text)], units)[0])


def test_owners_gather_maps_and_leave_blocks_alone() -> None:
    found = owners(map_units())
    assert [(owner.name, owner.kind, owner.shape, owner.start, owner.stop) for owner in found] == [
        ("block0", "position", (6, 8), 0, 48),
        ("block1", "position", (6, 8), 48, 96),
        ("block2", "position", (6, 8), 96, 144),
        ("conv0", "channel", (40,), 144, 184),
        ("exit0", "exit", (), 184, 185),
    ]
    assert [owner.stop - owner.start for owner in owners(block_units(5))] == [1] * 5


def test_lone_units_of_one_owner_stay_apart_and_odd_shapes_are_flat() -> None:
    unit = UnitRow("a", "block", "stage", (), 1, 0.5)
    assert len(owners((unit, unit, unit))) == 3
    odd = UnitRow("b", "position", "stage", (2, 2), 1, 0.5)
    assert [owner.shape for owner in owners((odd, odd, odd))] == [(3,)]


def test_two_maps_of_one_owner_name_and_shape_are_two() -> None:
    unit = UnitRow("b", "position", "stage", (2,), 1, 0.5)
    assert [(owner.start, owner.stop) for owner in owners((unit,) * 4)] == [(0, 2), (2, 4)]


def test_the_script_is_told_which_units_stand_alone_and_which_are_maps() -> None:
    told = layout(owners(map_units()))
    assert told["alone"] == [184]
    assert told["maps"] == [
        ["block0", 0, 48, 8],
        ["block1", 48, 96, 8],
        ["block2", 96, 144, 8],
        ["conv0", 144, 184, 32],
    ]
    assert layout(owners(block_units(3))) == {"alone": [0, 1, 2], "maps": []}


def test_a_gate_map_holds_the_decisions() -> None:
    units = tuple(UnitRow(f"p{i}", "position", "block", (2, 3), 1, 0.5) for i in range(6))
    before = [True, False, True, False, False, False]
    after = [True, True, False, False, False, True]
    shown = gate_map(owners(units), units, row(before, after))
    assert (shown.ran_clean, shown.ran_adversarial, shown.units) == (2, 3, 6)
    assert (unpack(shown.clean, 6), unpack(shown.adversarial, 6)) == (before, after)
    assert (shown.opened, shown.closed) == ("block (2)", "block (1)")


def test_changed_units_are_listed_by_name() -> None:
    units = block_units(3)
    shown = gate_map(owners(units), units, row([True, False, False], [False, True, False]))
    assert (shown.opened, shown.closed) == ("group0.block1", "group0.block0")
    many = block_units(MOST_NAMED + 5)
    shown = gate_map(owners(many), many, row([False] * len(many), [True] * len(many)))
    assert shown.opened.endswith("and 5 more")
    assert shown.opened.count(",") == MOST_NAMED - 1


def test_many_maps_are_cut_and_counted() -> None:
    units = tuple(UnitRow(f"c{i}", "channel", f"conv{i}", (1,), 1, 0.5) for i in range(30))
    shown = gate_map(owners(units), units, row([True] * 30, [False] * 30))
    assert (len(layout(owners(units))["maps"]), shown.unshown) == (24, 6)


def test_opening_rates_are_means_over_images() -> None:
    units = block_units(2)
    rows = [row([True, False], [True, True]), row([False, False], [True, False])]
    rates = openings(units, owners(units), RowTable.of_rows(rows))
    assert [(rate.name, rate.clean, rate.adversarial, rate.count) for rate in rates] == [
        ("group0.block0", 0.5, 1.0, 1),
        ("group0.block1", 0.0, 0.5, 1),
    ]
    assert openings(units, owners(units), RowTable.of_rows([])) == ()


def test_a_map_s_rate_is_the_mean_of_its_units() -> None:
    units = tuple(UnitRow(f"p{i}", "position", "block", (4,), 5 + i, 0.5) for i in range(4))
    (rate,) = openings(
        units,
        owners(units),
        RowTable.of_rows([row([True, False, False, False], [True, True, True, False])]),
    )
    assert (rate.name, rate.count, rate.cost, rate.clean, rate.adversarial) == (
        "block",
        4,
        8,
        0.25,
        0.75,
    )


def test_the_overview_has_a_line_an_image() -> None:
    units = block_units(3)
    table = RowTable.of_rows(
        [
            row([True, False, False], [True, True, False]),
            row([True, True, True], [True, True, False]),
        ]
    )
    drawn = overview(table, [1, 0], owners(units))
    assert drawn is not None
    assert (drawn["lines"], drawn["columns"]) == (2, 3)
    clean, adversarial = (base64.b64decode(drawn[name]) for name in ("clean", "adversarial"))
    assert [list(line) for line in unpacked([clean[:1], clean[1:]], 3)] == [
        [True, True, True],
        [True, False, False],
    ]
    assert [list(line) for line in unpacked([adversarial[:1], adversarial[1:]], 3)] == [
        [True, True, False]
    ] * 2
    assert overview(RowTable.of_rows([]), [], owners(units)) is None
