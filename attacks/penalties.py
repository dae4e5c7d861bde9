"""What one missing unit costs: penalties of the gap between a unit's margin and its target.

A unit whose margin m lies below the target o has the gap g = o - m; a loss on margins is the
weighted sum of phi(g) over the units (`attacks.objective.MarginLoss`), and phi decides which unit
a step works on. Its slope phi'(g) is the weight that the unit gets in the gradient:

    hinge     phi = g                               phi' = 1              all missing units alike
    log       phi = log(1 + g / T)                  phi' = 1 / (T + g)    the nearest first
    power     phi = ((1 + g / T)^q - 1) / q         phi' ~ (T + g)^(q-1)  hinge at 1, log as q -> 0
    bounded   phi = tanh(g / 2T)                    phi' -> 0 beyond T    none that is far away

The hinge is the literature's (ILFO; GradAuto Eq. 8). Inside a small ball most missing units cannot
be opened at all, and a hinge spends its gradient on these as on the others. A concave penalty
spends it on the unit that is nearest to its threshold. With the logarithm at a temperature T far
below the gaps, the slope of log g along the gradient of m is the relative progress of the unit,
whatever the scale of its gate: that is proportional fairness (Kelly et al., Rate control for
communication networks, J. Oper. Res. Soc. 1998) over the units that are missing. Below q = 0 the
power is bounded too, and greedier than the logarithm; concave penalties of this kind are those of
sparse estimation, where sum log(1 + |x| / T) stands for the number of entries that are not zero
(Candes, Wakin and Boyd, Enhancing sparsity by reweighted l1 minimization, 2008): minimizing the
number of closed units is what is meant here.
"""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from bench.errors import PlanError, did_you_mean

Weighting = Literal["cost", "uniform"]


@dataclass(frozen=True, kw_only=True)
class Penalty(ABC):
    """The penalty of one unit as a function of its gap.

    Attributes:
        offset: the target o that a unit is pushed to, in units of its margin; what keeps an opened
            unit open. None leaves it to the attack.
        weighting: the weight of a unit: "cost" its share of the MACs, "uniform" 1. None leaves it
            to the attack.
    """

    offset: float | None = None
    weighting: Weighting | None = None

    @abstractmethod
    def __call__(self, gap: Tensor) -> Tensor:
        """phi(gap), elementwise: 0 at 0, rising with the gap (at least 0), any shape."""


@dataclass(frozen=True, kw_only=True)
class Hinge(Penalty):
    """phi(g) = g (ILFO, CVPR 2020; GradAuto, ECCV 2022, Eq. 8)."""

    def __call__(self, gap: Tensor) -> Tensor:
        return gap


@dataclass(frozen=True, kw_only=True)
class Log(Penalty):
    """phi(g) = log(1 + g / T): concave, of slope 1 / (T + g).

    Attributes:
        temperature: T, in units of the margin, above 0.
    """

    temperature: float = 0.001

    def __post_init__(self) -> None:
        _check_positive(self, "temperature")

    def __call__(self, gap: Tensor) -> Tensor:
        return torch.log1p(gap / self.temperature)


@dataclass(frozen=True, kw_only=True)
class Power(Penalty):
    """phi(g) = ((1 + g / T)^q - 1) / q: concave below q = 1, bounded below q = 0.

    Attributes:
        exponent: q, at most 1 and not 0.
        temperature: T, in units of the margin, above 0.
    """

    exponent: float = 0.5
    temperature: float = 0.001

    def __post_init__(self) -> None:
        _check_positive(self, "temperature")
        if self.exponent == 0 or self.exponent > 1:
            raise PlanError(
                f"power: exponent is at most 1 and not 0 (that is log), got {self.exponent}"
            )

    def __call__(self, gap: Tensor) -> Tensor:
        return ((1 + gap / self.temperature).pow(self.exponent) - 1) / self.exponent


@dataclass(frozen=True, kw_only=True)
class Bounded(Penalty):
    """phi(g) = tanh(g / 2T): the sigmoid of g / T, moved and scaled to run from 0 to 1.

    Attributes:
        temperature: T, in units of the margin, above 0.
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        _check_positive(self, "temperature")

    def __call__(self, gap: Tensor) -> Tensor:
        return torch.tanh(gap / (2 * self.temperature))


HINGE = Hinge()
"""The literature's penalty."""

PENALTIES: dict[str, type[Penalty]] = {
    "hinge": Hinge,
    "log": Log,
    "power": Power,
    "bounded": Bounded,
}


def parse_penalty(text: str) -> Penalty:
    """A penalty from its text in a plan.

    Args:
        text: a name, with parameters in parentheses where they differ from the defaults:
            "hinge", "log(temperature=0.01)", "power(exponent=-0.5, offset=0.001)".

    Raises:
        PlanError: no such penalty, no such parameter, or a value that is no number or string.
    """
    name, given = _call(text)
    if name not in PENALTIES:
        raise PlanError(f"loss: no penalty {name!r}{did_you_mean(name, PENALTIES)}")
    kind = PENALTIES[name]
    known = {field.name for field in fields(kind)}
    for key, value in given.items():
        if key not in known:
            raise PlanError(f"loss: {name} has no parameter {key!r}{did_you_mean(key, known)}")
        if key == "weighting":
            if value not in ("cost", "uniform"):
                raise PlanError(f'loss: weighting is "cost" or "uniform", got {value!r}')
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise PlanError(f"loss: {key} of {name} is a number, got {value!r}")
    return kind(**given)


def is_penalty(text: str) -> bool:
    """Whether `text` names one of `PENALTIES`, with or without parameters."""
    return text.partition("(")[0].strip() in PENALTIES


def _call(text: str) -> tuple[str, dict[str, Any]]:
    """(name, keyword arguments) of a call written in Python's notation."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            return node.func.id, {
                str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords
            }
    except (SyntaxError, ValueError):
        pass
    raise PlanError(
        f'loss: expected a penalty such as "hinge" or "log(temperature=0.01)", got {text!r}'
    )


def _check_positive(penalty: Penalty, name: str) -> None:
    value = getattr(penalty, name)
    if not 0 < value < float("inf"):
        raise PlanError(f"loss: {name} is above 0, got {value!r}")
