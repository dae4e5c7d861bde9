"""Work that no counter sees: numbers that depend on the image and come from nowhere.

Counters see the operators of the thread that calls `execute`. NumPy, other threads, other
processes and compiled code give their results back as tensors that no operator made, as memory
that no operator wrote to, or as plain numbers. Here all of these are noted for an image and for
its negative, under the same decisions: what a network holds is the same for both. Pictures that
`bench.codec.through_jpeg` makes of images are known: the coder does no work of a network.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.codec import telling
from bench.contracts.target import Target
from bench.errors import ContractBroken
from bench.evaluation.counters import call_directly, uncompiled
from bench.evaluation.outputs import check_forced, check_output
from bench.evaluation.seeds import seeded
from bench.evaluation.witness import COPIES, Memory, tensors

HINT = (
    "do all work in torch operators of the thread that calls execute; NumPy, other threads and "
    "compiled code are not counted"
)


def check_nothing_outside(target: Target, image: Tensor, decisions: Tensor) -> None:
    """Whether everything that `execute` computes from an image is made by operators seen here.

    Numbers that Python has only read from such a result and handed back are no work; beside them
    one plain number for each unit may come from elsewhere, since gates are often read in Python.

    Args:
        target: in eval mode.
        image: (1, C, H, W) in [0,1].
        decisions: (1, U) bool to force.

    Raises:
        ContractBroken: it is not, or other units ran.
    """
    own = _origins(target, image, decisions)
    other = _origins(target, 1 - image, decisions)
    written = own.written or other.written
    if written:
        raise ContractBroken(f"execute works on memory that {written}", hint=HINT)
    changed = own.tensors - own.read_tensors - other.tensors
    numbers = own.numbers - own.read_numbers - other.numbers
    if changed or len(numbers) > len(target.units):
        count = sum(size for size, _ in changed) + len(numbers)
        raise ContractBroken(
            f"execute computes with {count} numbers that depend on the image and that no operator "
            "made that the counters see",
            hint=HINT,
        )


def _origins(target: Target, image: Tensor, decisions: Tensor) -> _Origins:
    handed = image.clone()
    mode = _Origins(handed)
    with torch.no_grad(), seeded(target, torch.zeros(1, dtype=torch.int64)):
        with uncompiled(), telling(mode.know), mode:
            returned = target.execute(handed, decisions)
        output = check_output(returned, target, 1)
    check_forced(output.decisions, decisions)
    for value in (output.logits, output.margins, output.logit_margins):
        mode.use(value)
    return mode


FEW = 1024
"""Values of a tensor that Python may read and hand back."""


class _Origins(TorchDispatchMode):
    """Notes what operators are given that no operator made.

    Args:
        image: (1, C, H, W), what the execution starts from.

    Attributes:
        tensors: the (number of values, digest of the values) of those that operators were given.
        numbers: plain numbers that operators were given.
        read_tensors: those of them that hold nothing but values that operators made.
        read_numbers: likewise.
        written: what happened to memory that an operator had made, in words; "" where nothing.
    """

    def __init__(self, image: Tensor) -> None:
        TorchDispatchMode.__init__(self)
        self.tensors: set[tuple[int, str]] = set()
        self.numbers: set[float] = set()
        self.read_tensors: set[tuple[int, str]] = set()
        self.read_numbers: set[float] = set()
        self.written = ""
        self._memory = Memory()
        self._made: dict[int, str] = {}
        self._read: set[float] = set()
        self._keep(image)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        schema = func._schema
        written: set[int] = set()
        if schema.is_mutable:
            given = [*args, *named.values()]
            places = [*schema.arguments[: len(args)], *(_argument(schema, name) for name in named)]
            for value, argument in zip(given, places, strict=True):
                if argument is not None and argument.alias_info and argument.alias_info.is_write:
                    written.update(self._memory.of(each) for each in tensors(value))
        fresh = func._overloadpacket.__name__.rstrip("_") in COPIES or "out" in named
        for value in tensors((args, named)):
            if not (fresh and self._memory.of(value) in written):
                self.use(value)
        for number in (*args, *named.values()):
            if isinstance(number, float):
                self.numbers.add(number)
                if number in self._read:
                    self.read_numbers.add(number)
        result = func(*args, **named)
        for value in tensors((args, named)):
            if self._memory.of(value) in written:
                self._keep(value)
        for value in tensors(result):
            if self._memory.of(value) not in self._made:
                self._keep(value)
        return result

    def use(self, value: Tensor) -> None:
        """Note a tensor that is used."""
        place = self._memory.of(value)
        if not place or value.dtype == torch.bool:
            return
        if place not in self._made:
            what = value.numel(), _digest(value)
            self.tensors.add(what)
            if value.numel() <= FEW and self._read.issuperset(value.flatten().tolist()):
                self.read_tensors.add(what)
        elif self._made[place] != _memory_digest(value):
            self.written = "something else than the operators that the counters see has written to"

    def know(self, before: Tensor, after: Tensor) -> None:
        """Note pictures that a known coder made of images; what it is given is used."""
        self.use(before)
        self._keep(after)

    def _keep(self, value: Tensor) -> None:
        """Remember what an operator has written."""
        place = self._memory.of(value)
        if place:
            self._made[place] = _memory_digest(value)
            if value.numel() <= FEW and value.is_floating_point():
                self._read.update(value.flatten().tolist())


call_directly(_Origins)


def _argument(schema: Any, name: str) -> Any:
    return next((each for each in schema.arguments if each.name == name), None)


def _memory_digest(value: Tensor) -> str:
    """Of all bytes of a tensor's memory; "" where it has none of its own, as some wrappers."""
    storage = value.untyped_storage()
    if storage.device.type == "meta":
        return ""
    return _digest(torch.empty(0, dtype=torch.uint8, device=value.device).set_(storage))


def _digest(value: Tensor) -> str:
    """Of a tensor's values."""
    plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous().flatten()
    data: Any = plain.view(torch.uint8).numpy() if plain.numel() else b""
    return hashlib.blake2b(data, digest_size=12).hexdigest()
