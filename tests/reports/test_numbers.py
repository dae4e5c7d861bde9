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


def test_psnr_in_decibel_and_grey_levels() -> None:
    assert numbers.decibel(35.04) == "35.0\u00a0dB"
    assert numbers.decibel(120.0) == "unchanged"
    assert numbers.levels(35.0) == "4.5"
    assert numbers.levels(120.0) == numbers.decibel(None) == "–"
