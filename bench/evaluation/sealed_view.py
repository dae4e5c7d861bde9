"""A view as attacks are handed it: calls, and no way to target or ledger."""

from __future__ import annotations

import copy
from typing import Literal
from weakref import WeakKeyDictionary

from torch import Tensor

from bench.contracts.attack import Losses
from bench.contracts.target import ForkEdit, Output
from bench.contracts.units import Units
from bench.evaluation.ledger import Ledger
from bench.evaluation.view import Knows, TargetView


class SealedView:
    """A `TargetView` as attacks are handed it: the calls of `bench.api.View`, and no attributes.

    Args:
        view: what the calls go to.
    """

    __slots__ = ("__weakref__",)

    def __init__(self, view: TargetView) -> None:
        _INSIDE[self] = view

    @property
    def units(self) -> Units:
        """A copy, the same for all views of a batch: what an attack writes into it changes no
        price."""
        inside = _INSIDE[self]
        copies = _UNITS.setdefault(inside.ledger, {})
        if inside.knows not in copies:
            copies[inside.knows] = copy.deepcopy(inside.units)
        return copies[inside.knows]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return _INSIDE[self].image_shape

    @property
    def classes(self) -> int:
        return _INSIDE[self].classes

    @property
    def floor(self) -> int:
        return _INSIDE[self].floor

    @property
    def ceiling(self) -> int:
        return _INSIDE[self].ceiling

    @property
    def draws(self) -> int:
        return _INSIDE[self].draws

    @property
    def left(self) -> Tensor:
        return _INSIDE[self].left

    def using(
        self,
        mask_grad: Literal["target", "ste", "none"] = "target",
        *,
        knows: Knows = "defense",
        surrogate: bool = True,
        draws: int | Literal["auto"] = "auto",
        alarm: Literal["raise", "avoid"] = "raise",
    ) -> SealedView:
        inside = _INSIDE[self].using(
            mask_grad, knows=knows, surrogate=surrogate, draws=draws, alarm=alarm
        )
        return SealedView(inside)

    def within(self, budget: int) -> SealedView:
        return SealedView(_INSIDE[self].within(budget))

    def __call__(self, images: Tensor, rows: Tensor) -> Output:
        return _INSIDE[self](images, rows)

    def gradients(
        self, losses: Losses, images: Tensor, rows: Tensor, at_fork: ForkEdit | None = None
    ) -> tuple[Output, tuple[Tensor, ...]]:
        return _INSIDE[self].gradients(losses, images, rows, at_fork)

    def macs(self, images: Tensor, rows: Tensor) -> Tensor:
        return _INSIDE[self].macs(images, rows)

    def price(self, decisions: Tensor) -> Tensor:
        return _INSIDE[self].price(decisions)

    def marginal_macs(self, decisions: Tensor) -> Tensor:
        return _INSIDE[self].marginal_macs(decisions)


_INSIDE: WeakKeyDictionary[SealedView, TargetView] = WeakKeyDictionary()
_UNITS: WeakKeyDictionary[Ledger, dict[Knows, Units]] = WeakKeyDictionary()
