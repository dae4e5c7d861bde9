"""How numbers are written."""

from __future__ import annotations

import pytest

from bench.results.stats import Estimate
from reports import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0 MAC"),
        (999, "999 MAC"),
        (41_040_000, "41.04 MMAC"),
        (1_814_073_344, "1.814 GMAC"),
        (5_419_321.5, "5.419 MMAC"),
        (312_000_000, "312.0 MMAC"),
        (999.4, "999 MAC"),
        (999.6, "1.000 kMAC"),
        (9_999_600, "10.00 MMAC"),
        (999_960_000, "1.000 GMAC"),
        (10**14, "100.0 TMAC"),
        (-0.4, "0 MAC"),
    ],
)
def test_macs_are_named_macs(value: float | None, text: str) -> None:
    assert numbers.macs(value) == text


def test_shares_carry_their_interval_and_a_true_minus() -> None:
    assert numbers.share(Estimate(0.1234, -0.01, 0.25)) == "12.3\u00a0% [−1.0, 25.0]"
    assert numbers.share(Estimate(None)) == "–"
    assert numbers.percent(-0.00001) == "0.0\u00a0%"
    assert numbers.percent(-0.5) == "−50.0\u00a0%"
    assert numbers.interval(Estimate(0.5)) == ""


def test_what_rounds_to_zero_has_no_sign_anywhere() -> None:
    tiny = Estimate(-0.0002, -0.0004, 0.0003)
    assert numbers.share(tiny) == "0.0\u00a0% [0.0, 0.0]"
    assert numbers.points(tiny) == "0.0\u00a0points [0.0, 0.0]"
    assert numbers.points(Estimate(0.012, -0.004, 0.03)) == "+1.2\u00a0points [−0.4, 3.0]"
    assert (numbers.signed(-0.04), numbers.signed(-0.06)) == ("0.0", "−0.1")


def test_psnr_in_decibel_and_grey_levels() -> None:
    assert numbers.decibel(35.04) == "35.0\u00a0dB"
    assert numbers.decibel(120.0) == "unchanged"
    assert numbers.levels(35.0) == "4.5"
    assert numbers.levels(120.0) == numbers.decibel(None) == "–"


def test_images_that_did_not_change_are_in_no_mean():
    """Two images at 40 dB and six unchanged ones, which count as 120 dB in the plain mean."""
    from dataclasses import replace

    from synthetic import full_board

    from reports.html.fields import changed_words, psnr_field

    cell = replace(full_board(n=8).cells[0], n=8, psnr=100.0, pooled_psnr=46.0, unchanged=6)
    assert cell.changed_psnr == 40.0
    assert psnr_field(cell).below == "mean 40.0 dB, 6 of 8 unchanged".replace(" dB", "\u00a0dB")
    assert changed_words(replace(cell, psnr=120.0, unchanged=8)) == "no image changed"
