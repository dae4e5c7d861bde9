"""Work that no counter sees: numbers that depend on the image and come from nowhere.

Counters see the operators of the thread that calls `execute`. NumPy, other threads, other
processes and compiled code give their results back as tensors that no operator made, as memory
that no operator wrote to, or as plain numbers. Here all of these are noted for an image and for
its negative, under the same decisions: what a network holds is the same for both. Pictures that
`bench.codec.through_jpeg` makes of images are known: the coder does no work of a network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

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
    units = len(target.units)
    changed = {
        what for what in own.tensors - other.tensors if what[1] not in own.read or what[0] > units
    } - own.repeated
    answers = sum(size for size, _ in own.answers - other.answers - own.repeated)
    numbers = _numbers_apart(own, other)
    if changed or numbers > units or answers > units:
        count = sum(size for size, _ in changed) + numbers + answers
        raise ContractBroken(
            f"execute computes with {count} numbers that depend on the image and that no operator "
            "made that the counters see",
            hint=HINT,
        )


def _numbers_apart(own: _Origins, other: _Origins) -> int:
    """How many plain numbers one execution used that the other did not, at the same operator, or at
    any where the two ran others in between. Those that were only read do not count."""
    ours, theirs = own.steps, other.steps
    shorter = min(len(ours), len(theirs))
    start = 0
    while start < shorter and ours[start].operator == theirs[start].operator:
        start += 1
    end = 0
    while end < shorter - start and ours[-1 - end].operator == theirs[-1 - end].operator:
        end += 1
    paired = [*zip(ours[:start], theirs[:start], strict=True)]
    if end:
        paired += zip(ours[-end:], theirs[-end:], strict=True)
    apart = sum(
        number != beside and number == number and not read  # NaN is as good as NaN
        for mine, yours in paired
        for number, beside, read in zip(mine.numbers, yours.numbers, mine.read, strict=False)
    )
    known = {number for step in theirs for number in step.numbers}
    found = {
        number
        for step in ours[start : len(ours) - end]
        for number, read in zip(step.numbers, step.read, strict=True)
        if not read
    }
    return apart + len(found - known)


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


class _Step(NamedTuple):
    """The plain numbers that one operator was given, and whether each was read from a tensor."""

    operator: str
    numbers: tuple[float, ...]
    read: tuple[bool, ...]


class _Origins(TorchDispatchMode):
    """Notes what operators are given that no operator made.

    Args:
        image: (1, C, H, W), what the execution starts from.

    Attributes:
        tensors: the (number of values, digest of the values) of those that operators were given.
        repeated: those of them that hold the values of one tensor that operators made, in order.
        read: digests of those that hold nothing but values that operators made of the image.
        answers: likewise those of yes or no.
        steps: the operators that were given plain numbers.
        written: what happened to memory that an operator had made, in words; "" where nothing.
    """

    def __init__(self, image: Tensor) -> None:
        TorchDispatchMode.__init__(self)
        self.tensors: set[tuple[int, str]] = set()
        self.repeated: set[tuple[int, str]] = set()
        self.read: set[str] = set()
        self.answers: set[tuple[int, str]] = set()
        self.steps: list[_Step] = []
        self.written = ""
        self._memory = Memory()
        self._made: dict[int, str] = {}
        self._from_image = {self._memory.of(image)}
        self._read: set[float] = set()
        self._whole: set[int] = set()
        self._keep(image)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        schema = func._schema
        given = [*tensors((args, named))]
        written: set[int] = set()
        if schema.is_mutable:
            values = [*args, *named.values()]
            places = [*schema.arguments[: len(args)], *(_argument(schema, name) for name in named)]
            for value, argument in zip(values, places, strict=True):
                if argument is not None and argument.alias_info and argument.alias_info.is_write:
                    written.update(self._memory.of(each) for each in tensors(value))
        fresh = func._overloadpacket.__name__.rstrip("_") in COPIES or "out" in named
        for value in given:
            if not (fresh and self._memory.of(value) in written):
                self.use(value)
        numbers = tuple(_numbers((*args, *named.values()), lists=not given))
        read = tuple(number in self._read for number in numbers)
        self.steps.append(_Step(str(func), numbers, read))
        from_image = any(self._memory.of(value) in self._from_image for value in given)
        result = func(*args, **named)
        if isinstance(result, int | float) and from_image:
            self._read.add(result)
        made = [value for value in given if self._memory.of(value) in written]
        for value in tensors(result):
            if from_image:
                self._from_image.add(self._memory.of(value))
                self._read.update((value.numel(), *value.shape))
                self._note(value)
            if self._memory.of(value) not in self._made:
                made.append(value)
        if from_image:
            self._from_image.update(written)
        for value in made:
            self._keep(value)
        return result

    def use(self, value: Tensor) -> None:
        """Note a tensor that is used."""
        place = self._memory.of(value)
        if not place:
            return
        if place not in self._made:
            what = value.numel(), _digest(value)
            (self.answers if value.dtype == torch.bool else self.tensors).add(what)
            if value.numel() <= FEW:
                values = value.flatten().tolist()
                if self._read.issuperset(values):
                    self.read.add(what[1])
                if hash(tuple(values)) in self._whole:
                    self.repeated.add(what)
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
            if place in self._from_image:
                self._note(value)

    def _note(self, value: Tensor) -> None:
        """Remember values that Python may read; those of new memory and those of a view."""
        if value.numel() <= FEW and self._memory.of(value):
            values = value.flatten().tolist()
            self._read.update(values)
            self._whole.add(hash(tuple(values)))


call_directly(_Origins)


def _numbers(values: Any, *, lists: bool) -> Iterator[float]:
    """The plain numbers among arguments.

    Args:
        values: the arguments.
        lists: whether those in lists count too: the sizes of new memory, and not those of a view.
    """
    for value in values:
        if isinstance(value, int | float):
            yield value
        elif lists and isinstance(value, list | tuple):
            yield from _numbers(value, lists=True)


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
