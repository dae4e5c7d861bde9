"""Numbers as people read them: MACs with their prefix, shares in per cent, estimates with their
interval.

MACs are multiply-accumulates and are never printed as FLOPs. A number that is undefined is a dash.
"""

from __future__ import annotations

from bench.contracts.threat import PSNR_CAP
from bench.results.stats import Estimate
from bench.terminal import fixed

DASH = "–"

_PREFIXES = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def macs(value: float | None) -> str:
    """12345678 -> "12.35 MMAC"."""
    if value is None:
        return DASH
    # Rounded first: 999.96 million are a thousand million.
    found = round(value) if abs(value) < 1000 else float(f"{value:.4g}")
    for size, prefix in _PREFIXES:
        if abs(found) >= size:
            whole = len(str(int(abs(found) / size)))
            return f"{found / size:.{max(0, 4 - whole)}f} {prefix}MAC"
    return f"{found} MAC"


def percent(value: float | None, places: int = 1) -> str:
    """0.1234 -> "12.3 %"; a true minus sign, and no minus before a zero."""
    if value is None:
        return DASH
    return signed(100 * value, places, plus=False) + "\u00a0%"


def interval(estimate: Estimate, places: int = 1) -> str:
    """The interval of a share, "[10.1, 14.2]" in per cent; empty where there is none."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return ""
    low, high = (signed(100 * end, places, plus=False) for end in (estimate.low, estimate.high))
    return f"[{low}, {high}]"


def share(estimate: Estimate, places: int = 1) -> str:
    """A share with its interval in one line."""
    return f"{percent(estimate.value, places)} {interval(estimate, places)}".rstrip()


def points(estimate: Estimate, places: int = 1) -> str:
    """A difference of shares with its interval, in percentage points: "+1.2 points [0.4, 2.1]"."""
    if estimate.value is None:
        return DASH
    value = signed(100 * estimate.value, places)
    return f"{value}\u00a0points {interval(estimate, places)}".rstrip()


def signed(value: float, places: int = 1, *, plus: bool = True) -> str:
    """A number with its sign, a true minus among them, and none before a zero."""
    return fixed(value, places, plus=plus).replace("-", "\u2212")


def decibel(value: float | None) -> str:
    """A PSNR in dB; an unchanged image has none that is finite."""
    if value is None:
        return DASH
    return "unchanged" if value >= PSNR_CAP else f"{value:.1f}\u00a0dB"


def plain(value: float | None, places: int = 0) -> str:
    """A number with thousands set apart, or a dash."""
    return DASH if value is None else f"{value:,.{places}f}".replace(",", "\u202f")


def levels(psnr: float | None) -> str:
    """The PSNR as a root mean squared error in gray levels of 255, which is easier to picture."""
    if psnr is None or psnr >= PSNR_CAP:
        return DASH
    return f"{255 * 10 ** (-psnr / 20):.1f}"
