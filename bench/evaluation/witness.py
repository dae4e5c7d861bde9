"""A dispatch mode that sees every operator of an execution, for what a counter alone overlooks.

It follows three things through the tensors of one pass: what is computed from the image, products
of broadcast operands that are not summed yet, and which weights were read. Tensors are known by
their memory, so that views and in-place operators are followed too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from bench.evaluation.counters import call_directly
from bench.evaluation.operators import is_accounted, is_counted

PRODUCTS = frozenset("mul div true_divide addcmul addcdiv lerp".split())
"""Elementwise operators that multiply."""

REDUCTIONS = frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d avg_pool1d avg_pool2d avg_pool3d
    col2im cumsum embedding_bag index_add index_reduce linalg_norm linalg_vector_norm logcumsumexp
    logsumexp mean nanmean nansum norm scatter_add scatter_reduce std std_mean sum trace var
    var_mean
    """.split()
)
"""Operators that add up."""


class Witness(TorchDispatchMode):
    """Sees every operator that runs.

    Args:
        image: (1, C, H, W), what the execution starts from.
        weights: name -> parameter or buffer of the target.

    Attributes:
        seen: how often each operator ran.
        unknown: operators that are neither counted nor free.
        inference: whether something ran under `torch.inference_mode`.
        summed: the first product of broadcast operands that was added up, in words; "" if none.
        read: names of the weights that some operator read.
    """

    def __init__(self, image: Tensor, weights: Mapping[str, Tensor]) -> None:
        TorchDispatchMode.__init__(self)
        self.seen: Counter[str] = Counter()
        self.unknown: set[str] = set()
        self.inference = False
        self.summed = ""
        self.read: set[str] = set()
        self._known: dict[int, StorageWeakRef] = {}
        self._names: dict[int, list[str]] = {}
        for name, value in weights.items():
            self._names.setdefault(self._memory(value), []).append(name)
        self._from_image = {self._memory(image)}
        self._products: dict[int, str] = {}

    def is_from_image(self, value: Tensor) -> bool:
        """Whether a tensor was computed from the image by operators that were seen."""
        return self._memory(value) in self._from_image

    def _memory(self, value: Tensor) -> int:
        """What stands for a tensor's memory; 0 where it has none.

        The weak reference keeps that number from being used for other memory later.
        """
        try:
            storage = value.untyped_storage()
        except (RuntimeError, NotImplementedError):
            return 0
        place = int(storage._cdata)
        if place not in self._known:
            self._known[place] = StorageWeakRef(storage)
        return place

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        name = packet.__name__
        self.seen[name] += 1
        self.inference |= torch.is_inference_mode_enabled()
        if not is_accounted(func, packet):
            self.unknown.add(str(packet))
        inputs = list(_tensors((args, kwargs or {})))
        places = [self._memory(each) for each in inputs]
        result = func(*args, **(kwargs or {}))
        self._follow(name.rstrip("_"), is_counted(packet), inputs, places, result)
        return result

    def _follow(
        self, name: str, counted: bool, inputs: list[Tensor], places: list[int], result: Any
    ) -> None:
        results = [(out, self._memory(out)) for out in _tensors(result)]
        if any(place not in places for _, place in results):  # more than a view
            for place in places:
                self.read.update(self._names.get(place, ()))
        from_image = [
            each for each, at in zip(inputs, places, strict=True) if at in self._from_image
        ]
        product = next((self._products[at] for at in places if at in self._products), "")
        for out, place in results:
            if not place:
                continue
            kept = place in places  # a view, or an input that was written to
            if from_image:
                self._from_image.add(place)
            elif not kept:
                self._from_image.discard(place)
            if product and name in REDUCTIONS and not self.summed:
                self.summed = product
            mark = "" if counted or name in REDUCTIONS else product
            if name in PRODUCTS and from_image:
                largest = max(_distinct(each) for each in from_image)
                if out.numel() > largest:
                    mark = f"{name} of {out.numel()} values from at most {largest}"
            if mark:
                self._products[place] = mark
            elif not kept:
                self._products.pop(place, None)


call_directly(Witness)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)


def _distinct(value: Tensor) -> int:
    """How many values a tensor holds, those repeated by `expand` counted once."""
    count = 1
    for size, stride in zip(value.shape, value.stride(), strict=True):
        count *= size if stride else 1
    return count
