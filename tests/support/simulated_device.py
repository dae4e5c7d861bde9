"""A simulated accelerator: tensors that say they live on `cuda:N`, computed on the CPU, with every
synchronization counted.

Real accelerators run asynchronously: the host queues work and goes on. Reading a value back
(`item`, `bool`, `tolist`, `nonzero`, indexing by a mask, a copy to the host) makes it wait.
`accelerator()` installs a dispatch mode under which `tensor.to("cuda:0")` gives a wrapper; the mode
unwraps, computes on the CPU, wraps again, refuses operators whose tensors lie on different devices,
and notes each wait under the line of the project that caused it.

What it cannot show: the speed of a device, and numbers that differ because a device has other
kernels.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from bench.evaluation import outputs, plain, view

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve()
aten = torch.ops.aten

READS = {
    aten._local_scalar_dense,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.bincount,
    aten.is_nonzero,
}
"""Operators whose result, or the size of whose result, the host waits for."""


class MixedDevices(RuntimeError):
    """An operator got tensors of different devices, which an accelerator refuses."""


class DeviceTensor(Tensor):
    """A tensor of the simulated device; its values lie in `inner`, on the CPU."""

    inner: Tensor
    place: torch.device
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, where: torch.device) -> DeviceTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",
            requires_grad=False,
        )
        made.inner, made.place = inner, where
        return made

    @property
    def device(self) -> torch.device:
        return self.place

    @property
    def is_cuda(self) -> bool:
        return True

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DeviceTensor({self.inner!r}, device={self.place})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert a device tensor to numpy; copy it to the host first")

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceTensor:
        if id(self) not in memo:
            made = DeviceTensor(self.inner.detach().clone(), self.place)
            if getattr(self, "_is_param", False):
                made._is_param = True
            memo[id(self)] = made.requires_grad_(self.requires_grad)
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: a device tensor was used outside of accelerator()")


class Accelerator(TorchDispatchMode):
    """The mode that computes.

    Attributes:
        devices: how many there are.
        waits: how often the host waited, by "file:line operator".
        calls: how many operators ran on device tensors.
    """

    def __init__(self, devices: int = 1) -> None:
        super().__init__()
        self.devices = devices
        self.waits: Counter[str] = Counter()
        self.calls = 0
        self._last = torch.device("cuda:0")

    @property
    def total(self) -> int:
        """All waits together."""
        return self.waits.total()

    def reset(self) -> None:
        """Start counting anew."""
        self.waits.clear()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat, _ = tree_flatten((args, kwargs))
        found = [value for value in flat if isinstance(value, DeviceTensor)]
        plain = [
            value
            for value in flat
            if isinstance(value, Tensor) and not isinstance(value, DeviceTensor)
        ]
        packet = func._overloadpacket
        if any(value.is_meta for value in plain):  # a network that is priced without its weights
            return func(*args, **kwargs)
        asked = self._asked(kwargs, bool(found))
        if not found and asked is None:
            return func(*args, **kwargs)
        self.calls += 1
        where = self._common(func, packet, found, [value for value in plain if value.ndim])
        if asked is not None or "device" in kwargs:
            target = asked if asked is not None else torch.device("cpu")
            kwargs["device"] = torch.device("cpu")
        else:
            target = where
        self._count(func, packet, args, kwargs, where, target)
        if found:
            self._last = found[0].place
        plain_args, plain_kwargs = tree_map(
            lambda value: value.inner if isinstance(value, DeviceTensor) else value, (args, kwargs)
        )
        result = func(*plain_args, **plain_kwargs)
        return self._wrapped(func, args, kwargs, result, target)

    def _asked(self, kwargs: dict[str, Any], held: bool) -> torch.device | None:
        """The simulated device that a call names; the wrapper's own `meta` stands for the device
        used last."""
        device = kwargs.get("device")
        if device is None:
            return None
        device = torch.device(device)
        if device.type == "cuda":
            index = device.index or 0
            if index >= self.devices:
                raise RuntimeError(f"cuda:{index} is not there; there are {self.devices}")
            return torch.device("cuda", index)
        return self._last if device.type == "meta" and (held or not _prices()) else None

    def _common(
        self, func: Any, packet: Any, found: list[DeviceTensor], hosts: list[Tensor]
    ) -> torch.device | None:
        """The one device of all tensors of a call.

        Raises:
            MixedDevices: there are several. Numbers without dimensions may come from the host,
                indices too (a copy).
        """
        if packet in (aten.copy_, aten._to_copy, aten.equal) and found:
            return found[0].place
        devices = {one.place for one in found}
        if hosts and found and packet in (aten.index, aten.index_put, aten.index_put_):
            self._note(func, "index from the host")
            hosts = []
        if len(devices) > 1 or (devices and hosts):
            names = sorted({str(device) for device in devices} | {"cpu" for _ in hosts[:1]})
            raise MixedDevices(f"{func} got tensors on {' and '.join(names)} at {self._line()}")
        return found[0].place if found else None

    def _count(
        self,
        func: Any,
        packet: Any,
        args: Any,
        kwargs: dict[str, Any],
        where: torch.device | None,
        target: torch.device | None,
    ) -> None:
        if packet in READS:
            self._note(func)
        elif packet is aten._to_copy:
            came = args[0].place if isinstance(args[0], DeviceTensor) else torch.device("cpu")
            to_host = target is not None and target.type == "cpu"
            if (
                came != target
                and target is not None
                and (to_host or not kwargs.get("non_blocking"))
            ):
                self._note(func)
        elif packet is aten.copy_:
            ends = [getattr(end, "place", torch.device("cpu")) for end in args[:2]]
            blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            if ends[0] != ends[1] and (blocking or ends[0].type == "cpu"):
                self._note(func)
        elif packet in (aten.index, aten.index_put, aten.index_put_):
            masks = [one for one in args[1] if one is not None and one.dtype == torch.bool]
            filled = packet is not aten.index and args[2].numel() == 1 and len(args[1]) == 1
            if masks and not filled:
                self._note(func, "by a mask")
        elif packet is aten.repeat_interleave and kwargs.get("output_size") is None:
            self._note(func)

    def _note(self, func: Any, what: str = "") -> None:
        self.waits[f"{self._line()} {func._overloadpacket.__name__} {what}".strip()] += 1

    def _line(self) -> str:
        """The innermost line of the project, this file left out."""
        frame = sys._getframe(1)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path != HERE and ROOT in path.parents and ".venv" not in path.parts:
                return f"{path.relative_to(ROOT).as_posix()}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        return "elsewhere"

    def _wrapped(
        self, func: Any, args: Any, kwargs: dict[str, Any], result: Any, target: torch.device | None
    ) -> Any:
        """The result as device tensors; what was changed in place is the argument itself."""
        if target is None or target.type == "cpu":
            return result
        same = _written(func, args, kwargs)
        leaves, spec = tree_flatten(result)
        wrapped = []
        for place, leaf in enumerate(leaves):
            if not isinstance(leaf, Tensor):
                wrapped.append(leaf)
            elif place in same and isinstance(same[place], DeviceTensor):
                wrapped.append(same[place])
            else:
                wrapped.append(DeviceTensor(leaf, target))
        return tree_unflatten(wrapped, spec)


def _prices() -> bool:
    """Whether a network is being priced, which is the one thing that makes real tensors on `meta`."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in ("macs_of", "macs_on_the_way"):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _written(func: Any, args: Any, kwargs: dict[str, Any]) -> dict[int, Any]:
    """The arguments that an operator writes to and returns, by their place among its results."""
    written = {}
    for place, (argument, value) in enumerate(
        zip(func._schema.arguments, [*args, *[None] * len(func._schema.arguments)], strict=False)
    ):
        value = kwargs.get(argument.name, value if place < len(args) else None)
        if argument.alias_info is not None and argument.alias_info.is_write:
            written[frozenset(argument.alias_info.after_set)] = value
    return {
        place: written[frozenset(one.alias_info.after_set)]
        for place, one in enumerate(func._schema.returns)
        if one.alias_info is not None and frozenset(one.alias_info.after_set) in written
    }


_strict = plain.plain


def _plain(value: Any, what: str) -> Tensor:
    """What the checks see of a plugin's tensor; one of the simulated device counts as what it stands for."""
    return value if type(value) is DeviceTensor else _strict(value, what)


@contextlib.contextmanager
def accelerator(devices: int = 1) -> Iterator[Accelerator]:
    """Simulate so many devices for as long as this lasts; nothing else about the process changes."""
    torch._C._ensureCUDADeviceGuardSet()
    lifting = torch._C._only_lift_cpu_tensors()
    mode = Accelerator(devices)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: devices)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        patch.setattr(torch.cuda, "get_device_name", lambda device=None: "simulated")
        patch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
        for module in (
            plain,
            outputs,
            view,
        ):  # a subclass is refused; a tensor of a real device is none
            patch.setattr(module, "plain", _plain)
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            with mode:
                yield mode
        finally:
            torch._C._set_only_lift_cpu_tensors(lifting)


def host(value: Any) -> Any:
    """The same values on the CPU, without counting: for tests that compare."""
    return tree_map(
        lambda one: one.inner.detach().clone() if isinstance(one, DeviceTensor) else copy.copy(one),
        value,
    )
