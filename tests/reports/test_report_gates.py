"""Gate maps over blocks, positions, channels and exits."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
from PIL import Image
from synthetic import block_units, image_rows, map_units

from bench.results.rows import ImageRow, UnitRow
from reports.html.gates import Drawing, before_and_after, gate_map, openings, overview, owners
from reports.html.pictures import CLOSED, OFF, ON, OPENED, STATE_COLOURS


def row(before: list[bool], after: list[bool]) -> ImageRow:
    sample = image_rows(block_units(1), 1, strength=0.0, shift=0)[0]
    return replace(sample, clean_decisions=tuple(before), adversarial_decisions=tuple(after))


def squares(drawing: Drawing) -> dict[str, set[tuple[int, int]]]:
    return {
        state: {(int(x), int(y)) for x, y in re.findall(r"M(\d+) (\d+)", path)}
        for state, path in drawing.paths
    }


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


def test_a_strip_shows_before_above_after() -> None:
    drawn = squares(before_and_after([OFF, CLOSED, OPENED, ON]))
    assert drawn == {
        "off": {(0, 0), (20, 0), (0, 10)},
        "on": {(10, 0), (30, 0), (30, 10)},
        "closed": {(10, 10)},
        "opened": {(20, 10)},
    }


def test_long_strips_are_broken() -> None:
    drawing = before_and_after([ON] * 130, columns=64)
    assert drawing.width == 64 * 10 - 1
    assert len({y for _, y in squares(drawing)["on"]}) == 6


def test_maps_hold_the_decisions() -> None:
    units = tuple(UnitRow(f"p{i}", "position", "block", (2, 3), 1, 0.5) for i in range(6))
    before = [True, False, True, False, False, False]
    after = [True, True, False, False, False, True]
    shown = gate_map(owners(units), row(before, after))
    assert (shown.ran_clean, shown.ran_adversarial, shown.units, shown.strip) == (2, 3, 6, None)
    pair = shown.maps[0]
    assert (pair.width, pair.height, pair.opened, pair.closed) == (3, 2, 2, 1)
    first, second = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
        for uri in (pair.before, pair.after)
    )
    colours = [
        [STATE_COLOURS[state] for state in line] for line in ([ON, OFF, ON], [OFF, OFF, OFF])
    ]
    assert first.tolist() == [[list(colour) for colour in line] for line in colours]
    colours = [
        [STATE_COLOURS[state] for state in line]
        for line in ([ON, OPENED, CLOSED], [OFF, OFF, OPENED])
    ]
    assert second.tolist() == [[list(colour) for colour in line] for line in colours]


def test_many_maps_are_cut_and_counted() -> None:
    units = tuple(UnitRow(f"c{i}", "channel", f"conv{i}", (1,), 1, 0.5) for i in range(30))
    shown = gate_map(owners(units), row([True] * 30, [False] * 30), most_maps=24)
    assert (len(shown.maps), shown.unshown) == (24, 6)


def test_opening_rates_are_means_over_images() -> None:
    units = block_units(2)
    rows = [row([True, False], [True, True]), row([False, False], [True, False])]
    rates = openings(units, owners(units), rows)
    assert [(rate.name, rate.clean, rate.adversarial, rate.count) for rate in rates] == [
        ("group0.block0", 0.5, 1.0, 1),
        ("group0.block1", 0.0, 0.5, 1),
    ]
    assert openings(units, owners(units), []) == ()


def test_a_map_s_rate_is_the_mean_of_its_units() -> None:
    units = tuple(UnitRow(f"p{i}", "position", "block", (4,), 5 + i, 0.5) for i in range(4))
    (rate,) = openings(
        units, owners(units), [row([True, False, False, False], [True, True, True, False])]
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
    drawing = overview(
        [
            row([True, False, False], [True, True, False]),
            row([True, True, True], [True, True, False]),
        ],
        owners(units),
    )
    assert drawing is not None
    assert squares(drawing) == {
        "on": {(0, 0), (0, 10), (10, 10)},
        "opened": {(10, 0)},
        "off": {(20, 0)},
        "closed": {(20, 10)},
    }
    assert overview([], owners(units)) is None
