"""The two counters of MACs, imported without what is not used of them.

ptflops' package imports timm and torchvision to know their modules in an engine that is not used
here, and torch calls the function of every dispatch mode through its compiler. Together that is
half of what a worker would import.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode as TorchMode
from torch.utils.flop_counter import _FlopCounterMode


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """Let these packages be missing for a moment, unless they are there already."""
    hidden = [name for name in names if name not in sys.modules and importlib.util.find_spec(name)]
    for name in hidden:
        sys.modules[name] = cast(ModuleType, None)
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def call_directly(mode: type[TorchDispatchMode]) -> None:
    """Let a mode's function be called as it is, and not through torch's compiler: nothing is
    compiled here.

    Where torch names this otherwise, the compiler is imported at the first count and nothing else
    changes.
    """
    function = getattr(mode.__torch_dispatch__, "__wrapped__", None)
    if function is not None:
        setattr(function, "__dynamo_disable", function)


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Run what was compiled by torch operator by operator, as it is counted; the modes themselves
    would be compiled with it."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes long
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


with _without("timm", "torchvision"):
    from ptflops.aten_engine import FlopCounterMode as PtflopsMode
    from ptflops.aten_ops import ATEN_OPS_MAPPING

call_directly(PtflopsMode)
call_directly(_FlopCounterMode)

__all__ = ["ATEN_OPS_MAPPING", "PtflopsMode", "TorchMode", "call_directly", "uncompiled"]
