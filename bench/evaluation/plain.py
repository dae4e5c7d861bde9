"""Plain tensors: what plugins hand over is read once, and without any code of theirs.

A subclass of `torch.Tensor` may answer comparisons with lies. So every tensor that a check reads is
first turned into a `torch.Tensor` of the same values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from bench.errors import ContractBroken

_PYTHON = torch._C.DispatchKey.Python
_WRAPPED: Callable[[Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor
_MRO: Callable[[type], tuple[type, ...]] = vars(type)["__mro__"].__get__


def plain(value: Any, what: str) -> Tensor:
    """The tensor itself as a `torch.Tensor`, in the same graph; no method of a subclass is called.

    Args:
        value: what a plugin handed over.
        what: how a message calls it ("the attack's images").

    Raises:
        ContractBroken: it is no tensor, or one whose values only its own code knows.
    """
    if type(value) is Tensor:
        return _readable(value, what)
    hint, kind = "hand over a torch.Tensor", type(value).__name__
    if Tensor not in _MRO(type(value)):  # isinstance would believe a `__class__` of its own
        raise ContractBroken(f"{what}: {kind}, expected a torch.Tensor", hint=hint)
    with torch._C.DisableTorchFunctionSubclass():
        if torch._C._dispatch_keys(value).has(_PYTHON):
            raise ContractBroken(
                f"{what}: {kind}, a tensor that computes its own values", hint=hint
            )
        found: Any = torch._C.TensorBase.as_subclass(value, Tensor)
    return _readable(cast(Tensor, found), what)


def _readable(value: Tensor, what: str) -> Tensor:
    """The tensor, if it has its values in memory, one after the other.

    Raises:
        ContractBroken: it has not.
    """
    if _WRAPPED(value):
        kind = "a tensor inside of torch.func"
    elif value.layout != torch.strided:
        kind = f"a tensor of layout {value.layout}"
    elif value.is_meta or torch._is_functional_tensor(value):
        kind = "a tensor without values"
    else:
        return value
    raise ContractBroken(f"{what}: {kind}", hint="hand over a plain, dense torch.Tensor")


def plain_copy(value: Any, what: str) -> Tensor:
    """A copy of the values as a `torch.Tensor` without a graph; nobody else holds its memory.

    Raises:
        ContractBroken: as in `plain`.
    """
    return plain(value, what).detach().clone()
