"""Threats as integer bounds on D = 255 (x' - x), the difference of two saved images.

A threat says how far a saved adversarial image may lie from the clean one. Bounds are integers,
computed exactly from rationals, so that "inside" is never a matter of rounding. No torch here:
plans are read without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, localcontext
from fractions import Fraction

from bench.errors import PlanError, did_you_mean

PSNR_CAP = 120.0
"""dB reported for an unchanged image, whose PSNR is infinite."""

NORMS = ("linf", "l2", "psnr", "patch", "none")
_KEYS = {"linf": "eps", "l2": "eps", "psnr": "floor", "patch": "patch"}


@dataclass(frozen=True)
class Threat:
    """What an adversarial image may change.

    Attributes:
        norm: "linf" max|D| <= floor(255 eps); "l2" sum D^2 <= floor((255 eps)^2);
            "psnr" sum D^2 <= floor(n 255^2 10^(-floor/10)) for n values an image;
            "patch" D = 0 outside one square of `size` pixels a side; "none" no bound but [0,1].
        amount: eps ("linf", "l2", in [0,1] pixel units), the PSNR floor in dB ("psnr"), the side in
            pixels ("patch"), 0 ("none"). An exact rational.
    """

    norm: str
    amount: Fraction

    @property
    def bounded(self) -> bool:
        """Whether there is anything to stay inside of; attacks are ranked only then."""
        return self.norm != "none"

    def bound(self, values: int) -> int | None:
        """The integer bound for an image of `values` numbers (C*H*W); None under "none".

        "linf" bounds max|D|, "l2" and "psnr" bound sum D^2, "patch" is the side of the square.
        """
        if self.norm == "none":
            return None
        if self.norm == "linf":
            return int(255 * self.amount // 1)
        if self.norm == "l2":
            return int((255 * self.amount) ** 2 // 1)
        if self.norm == "psnr":
            with localcontext() as context:
                context.prec = 50
                floor = Decimal(self.amount.numerator) / Decimal(self.amount.denominator)
                exact = Decimal(values * 255 * 255) * Decimal(10) ** (-floor / 10)
                return int(exact.to_integral_value(rounding=ROUND_FLOOR))
        return int(self.amount)

    def admits_change(self, values: int) -> bool:
        """Whether any saved image but the clean one lies inside."""
        bound = self.bound(values)
        return bound is None or bound >= 1

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a patch fits into an image of this (C, H, W); other threats always do."""
        return self.norm != "patch" or self.amount <= min(shape[1:])

    def document(self) -> str | dict[str, str | int]:
        """The canonical form, as in a plan: what keys are made of."""
        if self.norm == "none":
            return "none"
        if self.norm == "patch":
            return {"patch": int(self.amount)}
        return {"norm": self.norm, _KEYS[self.norm]: str(self.amount)}

    def __str__(self) -> str:
        if self.norm == "none":
            return "none"
        if self.norm == "psnr":
            return f"psnr>={float(self.amount):g}"
        if self.norm == "patch":
            return f"patch{int(self.amount)}"
        return f"{self.norm}<={self.amount}"


def parse_threat(value: object, where: str = "threat") -> Threat:
    """Read a threat as it stands in a plan.

    Args:
        value: "none", {norm = "linf"|"l2", eps = "8/255"}, {norm = "psnr", floor = 35} or
            {patch = 8}.
        where: the place in the file, for the message.

    Raises:
        PlanError: naming the place, what was expected and the nearest valid name.

    Examples:
        >>> threat = parse_threat({"norm": "linf", "eps": "8/255"})
        >>> str(threat), threat.bound(3 * 32 * 32)
        ('linf<=8/255', 8)
        >>> parse_threat({"norm": "psnr", "floor": 35}).bound(3 * 32 * 32)
        63168
    """
    if value == "none":
        return Threat("none", Fraction(0))
    if isinstance(value, str):
        raise PlanError(
            f'{where}: {value!r} is no threat; the only one written as a word is "none", the '
            "others are tables such as "
            '{ norm = "psnr", floor = 35 }'
        )
    if not isinstance(value, Mapping):
        raise PlanError(
            f'{where}: expected "none" or a table such as {{ norm = "psnr", floor = 35 }}, got '
            f"{value!r}"
        )
    if "patch" in value and "norm" not in value:
        norm = "patch"
    else:
        if "norm" not in value:
            raise PlanError(
                f'{where}: a threat names its norm, for example {{ norm = "linf", eps = "8/255" }}'
            )
        norm = value["norm"]
    if not isinstance(norm, str) or norm not in NORMS:
        raise PlanError(f"{where}.norm: unknown norm {norm!r}{did_you_mean(str(norm), NORMS)}")
    if norm == "none":
        _refuse_extra(value, {"norm"}, where)
        return Threat("none", Fraction(0))
    key = _KEYS[norm]
    _refuse_extra(value, {"norm", key}, where)
    if key not in value:
        raise PlanError(f"{where}: norm {norm!r} needs {key!r}")
    amount = _rational(value[key], f"{where}.{key}")
    if norm == "patch" and (amount.denominator != 1 or amount < 1):
        raise PlanError(
            f"{where}.patch: the side of the square is a whole number of pixels, at least 1, got "
            f"{value[key]!r}"
        )
    if norm != "patch" and amount <= 0:
        raise PlanError(f"{where}.{key}: must be above 0, got {value[key]!r}")
    if norm == "linf" and amount > 1:
        raise PlanError(
            f"{where}.eps: in units of the [0,1] pixel range, so at most 1, got {value[key]!r}; "
            f'did you mean "{value[key]}/255"?'
        )
    if norm == "psnr" and amount > 200:
        raise PlanError(
            f"{where}.floor: a PSNR floor is given in dB, at most 200, got {value[key]!r}"
        )
    return Threat(norm, amount)


def _refuse_extra(value: Mapping[str, object], allowed: set[str], where: str) -> None:
    for key in value:
        if key not in allowed:
            raise PlanError(f"{where}: unknown key {key!r}{did_you_mean(key, allowed)}")


def _rational(value: object, where: str) -> Fraction:
    """An exact rational from an integer or a string like "8/255" or "35.5"."""
    if isinstance(value, bool) or not isinstance(value, (int, str, float)):
        raise PlanError(
            f'{where}: expected a number or a fraction in quotes such as "8/255", got {value!r}'
        )
    if isinstance(value, float):
        if where.endswith(".eps"):
            raise PlanError(
                f'{where}: write eps exactly, as a fraction in quotes such as "8/255" (0.031 is '
                f"not 8/255), got {value!r}"
            )
        value = repr(value)
    text = str(value).strip()
    if not re.fullmatch(r"[+-]?\d{1,18}(\.\d{1,18})?(\s*/\s*\d{1,18})?", text):
        raise PlanError(f'{where}: expected a number or a fraction such as "8/255", got {value!r}')
    above, _, below = text.partition("/")
    if below and int(below) == 0:
        raise PlanError(f"{where}: {value!r} divides by zero")
    return Fraction(above.strip()) / (Fraction(below.strip()) if below else 1)
