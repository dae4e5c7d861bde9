"""Weights put away: a network whose weights nobody can use while code of an attack runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from bench.contracts.target import Target
from bench.errors import ContractBroken
from bench.evaluation.target_checks import copy_target

Refuse = Callable[[], NoReturn]
"""What is called when a weight that was put away is used; it raises."""

_PROPERTIES = ("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cuda", "is_meta")
_METHODS = ("size", "dim", "numel", "nelement", "stride", "is_floating_point", "is_complex")
_METADATA = frozenset(
    [
        *(getattr(Tensor, name).__get__ for name in _PROPERTIES),
        *(getattr(Tensor, name) for name in _METHODS),
        *(torch.numel, torch.is_floating_point, torch.is_complex),
    ]
)
"""What a weight that was put away still tells: nothing that depends on its values."""

_DEPTH = 3
"""How deep weights are looked for in collections."""

_NOTHING = object()


class PutAway(Tensor):
    """A tensor in the place of a weight that was put away."""


class Weights:
    """The weights of some networks, where they can be put away and put back.

    Weights are all floating-point tensors that a module holds: parameters, buffers, other
    attributes, and lists, tuples and dicts of them. Put away, each leaves a stand-in of its shape
    and type. Whatever is computed from one is refused: calls of the network or of any of its
    modules, however they are made, functions of its weights, and copies of them.

    Args:
        networks: whose weights they are; what they share is put away once.
        refuse: called whenever a stand-in is used.
    """

    def __init__(self, networks: tuple[Target, ...], refuse: Refuse) -> None:
        kind = _stand_in_type(refuse)
        modules = {id(module): module for each in networks for module in each.modules()}
        self._places = [  # where a module holds its parameters, its buffers, another attribute
            (held, name, _stand_in(kind, value))
            for held in map(vars, modules.values())
            for name, value in held.items()
            if _holds_weights(value)
        ]
        self._kept: list[Any] | None = None

    @property
    def are_away(self) -> bool:
        return self._kept is not None

    def move(self, away: bool) -> None:
        """Put them away or back; what lies where it should stays.

        What was written into a place while its weight was away is lost.
        """
        if away and self._kept is None:
            self._kept = [held.get(name, _NOTHING) for held, name, _ in self._places]
            for held, name, stand_in in self._places:
                held[name] = stand_in
        elif not away and self._kept is not None:
            for (held, name, _), value in zip(self._places, self._kept, strict=True):
                if value is _NOTHING:
                    held.pop(name, None)
                else:
                    held[name] = value
            self._kept = None


def without_weights(target: Target) -> Target:
    """A copy of a target to look at: everything is there but its weights.

    Args:
        target: on its device; it has its weights again afterwards.

    Raises:
        ContractBroken: the target cannot be copied. Whoever evaluates the copy gets one, too.
    """

    def refuse() -> NoReturn:
        raise ContractBroken(
            "supports() evaluates the target, which it is handed without its weights",
            hint="decide by its class, units, draws, forks, floor or ceiling; evaluate in perturb "
            "or fit, by calling the view",
        )

    _ = target.floor, target.ceiling  # kept from the first access on
    weights = Weights((target, target.undefended), refuse)
    weights.move(away=True)
    try:
        return copy_target(target)
    finally:
        weights.move(away=False)


def _holds_weights(value: Any, depth: int = 0) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() or value.is_complex()
    inner = value.values() if isinstance(value, dict) else value
    if depth == _DEPTH or not isinstance(value, dict | list | tuple):
        return False
    return any(_holds_weights(each, depth + 1) for each in inner)


def _stand_in_type(refuse: Refuse) -> type[Tensor]:
    class StandIn(PutAway):
        """Tells its shape and type; any other use of it is refused."""

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is Tensor.__repr__:
                return "<a weight that was put away>"
            if func not in _METADATA:
                refuse()
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))

        @classmethod
        def __torch_dispatch__(cls, *args: Any, **kwargs: Any) -> Any:
            refuse()

        def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
            return self

    return StandIn


def _stand_in(kind: type[Tensor], value: Any, depth: int = 0) -> Any:
    """A tensor without storage, of the shape of the weight; a collection of them for one."""
    if not _holds_weights(value, depth):
        return value
    if isinstance(value, dict):
        return {name: _stand_in(kind, each, depth + 1) for name, each in value.items()}
    if isinstance(value, list | tuple):
        made = [_stand_in(kind, each, depth + 1) for each in value]
        return made if isinstance(value, list) else tuple(made)
    make: Any = torch.Tensor._make_wrapper_subclass
    stand_in: Tensor = make(kind, value.shape, dtype=value.dtype, device=value.device)
    if isinstance(value, nn.Parameter):
        stand_in._is_param = True
    return stand_in
