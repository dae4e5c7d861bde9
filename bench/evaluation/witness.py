"""A dispatch mode that sees every operator of an execution, for what a counter alone overlooks.

It follows two things through the tensors of one pass: what is computed from the image, and products
of broadcast operands, or with as many weights, that are not summed yet. Tensors are known by their
memory, so that views and in-place operators are followed too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from bench.errors import ContractBroken
from bench.evaluation.counters import call_directly
from bench.evaluation.operators import foreign_operators, is_accounted, is_counted

ADDITIONS = frozenset(
    "add sub rsub maximum minimum fmax fmin where masked_fill clamp clamp_min clamp_max".split()
)
"""Elementwise operators on several tensors that multiply nothing by themselves."""

COPIES = frozenset("copy fill clone lift lift_fresh to _to_copy view_copy set".split())

CURVES = frozenset("pow square exp exp2 expm1 cosh".split())
"""Elementwise operators that make a product of a sum: 2 a b = (a + b)^2 - a^2 - b^2."""

SQUARED_SUMS = frozenset(
    """
    _log_softmax linalg__powsum linalg_norm linalg_vector_norm logcumsumexp logsumexp norm std
    std_mean var var_mean
    """.split()
)
"""Operators that add up such curves of what they are given."""

SPREADS = frozenset(
    """
    _adaptive_avg_pool2d _unsafe_index _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    adaptive_max_pool2d cat clone embedding expand_copy gather grid_sampler_2d im2col index
    index_select max_pool2d_with_indices max_pool3d_with_indices repeat stack take take_along_dim
    unfold_copy upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d reflection_pad2d replication_pad2d
    """.split()
)
"""Operators that may repeat values of what they are given."""

JOINS = frozenset("cat stack".split())
"""Those of them that put several tensors together."""

FILLS = frozenset("index_copy index_put masked_scatter scatter".split())
"""Operators that write the last of several tensors into a copy of the first."""

PLAIN_SUMS = frozenset("mean nanmean nansum sum".split())
"""Operators that add up and do nothing else."""

WEIGHTED_SUMS = PLAIN_SUMS | frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d avg_pool1d avg_pool2d avg_pool3d
    bincount cumsum index_add scatter_add trace
    """.split()
)
"""Those that make a sum of products with weights."""

AFFINE = frozenset(
    """
    _batch_norm_no_update _fused_rms_norm _native_batch_norm_legit
    _native_batch_norm_legit_no_training _weight_norm_interface cudnn_batch_norm miopen_batch_norm
    native_batch_norm native_group_norm native_layer_norm
    """.split()
)
"""Normalizations: elementwise products with weights, or with statistics that are kept."""

FACTORS = AFFINE | frozenset("_prelu_kernel grid_sampler_2d".split())
"""Operators that are not elementwise in name, but multiply one tensor by another."""

FOLDS = frozenset("cumprod glu prod std std_mean var var_mean".split())
"""Operators that make products of values of one tensor, in which two may have been joined."""

SCALES = frozenset("div mul neg".split())
"""Elementwise operators that leave a sum of products one."""

REDUCTIONS = frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _fused_rms_norm _log_softmax _native_batch_norm_legit
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa adaptive_avg_pool1d avg_pool1d avg_pool2d
    avg_pool3d bincount col2im cumprod cumsum embedding_bag grid_sampler_2d index_add index_put
    index_reduce linalg__powsum linalg_norm linalg_vector_norm logcumsumexp logsumexp mean nanmean
    nansum native_group_norm native_layer_norm norm prod scatter_add scatter_reduce std std_mean sum
    trace upsample_bicubic2d upsample_bilinear2d upsample_linear1d var var_mean
    """.split()
)
"""Operators that add up."""


class Memory:
    """Names the memory of tensors by numbers, so that views of one another have the same."""

    def __init__(self) -> None:
        self._known: dict[int, StorageWeakRef] = {}

    def of(self, value: Tensor) -> int:
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


class Witness(TorchDispatchMode):
    """Sees every operator that runs.

    Args:
        image: (1, C, H, W), what the execution starts from.
        weights: parameters and buffers of the network.

    Attributes:
        seen: how often each operator ran.
        unknown: operators that are neither counted nor free.
        inference: whether something ran under `torch.inference_mode`.
        summed: the first uncounted product that was added up, in words; "" if none.
    """

    supports_higher_order_operators = True

    def __init__(self, image: Tensor, weights: Iterable[Tensor] = ()) -> None:
        TorchDispatchMode.__init__(self)
        self.seen: Counter[str] = Counter()
        self.unknown: set[str] = set()
        self.inference = False
        self.summed = ""
        self._memory = Memory()
        self._foreign = foreign_operators()
        self._from_image = {self._memory.of(image)}
        self._different: dict[int, int] = {}
        self._products: dict[int, str] = {}
        self._sums: dict[int, str] = {}
        self._weights = {self._memory.of(each) for each in weights} - {0}
        self._held = frozenset(self._weights)
        self._made: set[int] = set()
        self._answers: set[int] = set()
        self._joined: dict[int, tuple[int, int]] = {}
        self._dots: dict[int, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, HigherOrderOperator):
            raise ContractBroken(
                f"execute uses {func.name()}, an operator that runs functions, which no counter "
                "sees into",
                hint="branch in Python, and use torch.nn.functional.scaled_dot_product_attention "
                "for attention",
            )
        packet = func._overloadpacket
        name = packet.__name__
        self.seen[name] += 1
        self.inference |= torch.is_inference_mode_enabled()
        if not is_accounted(func, packet) or func._schema.name in self._foreign:
            self.unknown.add(str(packet))
        inputs = list(tensors((args, kwargs or {})))
        if is_counted(packet) and any(each.is_complex() for each in inputs):
            self.unknown.add(f"{packet} of complex numbers")
        places = [self._memory.of(each) for each in inputs]
        self._weights.update(set(places) - self._made - self._from_image - {0})
        result = func(*args, **(kwargs or {}))
        pointwise = torch.Tag.pointwise in func.tags
        self._follow(_kind(func, args), is_counted(packet), pointwise, inputs, places, result)
        return result

    def _follow(
        self,
        name: str,
        counted: bool,
        pointwise: bool,
        inputs: list[Tensor],
        places: list[int],
        result: Any,
    ) -> None:
        """Follow one operator.

        Args:
            name: of the operator, as `_kind` gives it.
            counted: whether its MACs are.
            pointwise: whether it is elementwise.
            inputs: the tensors among its arguments.
            places: their memory.
            result: what it returned.
        """
        together = (pointwise or name in FACTORS) and len(inputs) > 1
        results = [(out, self._memory.of(out)) for out in tensors(result)]
        from_image = [
            each for each, at in zip(inputs, places, strict=True) if at in self._from_image
        ]
        product = next((self._products[at] for at in places if at in self._products), "")
        added = next((self._sums[at] for at in places if at in self._sums), "")
        dot = next((self._dots[at] for at in places if at in self._dots), "")
        ends = counted or name in REDUCTIONS
        weighted = any(at in self._weights for at in places)
        for number, (out, place) in enumerate(results):
            if not place:
                continue
            kept = place in places  # a view, or an input that was written to
            held = place in self._weights
            self._made.add(place)
            if from_image:
                self._from_image.add(place)
                self._weights.discard(place)
            elif not kept:
                self._from_image.discard(place)
            if weighted and not from_image:
                self._weights.add(place)
            if not self.summed:
                self.summed = product if name in REDUCTIONS else ""
                self.summed = self.summed or (added if name in SQUARED_SUMS else "")
                if name == "cumsum" or (name in WEIGHTED_SUMS and out.numel() < inputs[0].numel()):
                    self.summed = self.summed or dot
            stays = not pointwise or name in ADDITIONS | COPIES | SCALES
            marks = ["" if ends else mark for mark in (product, added, dot if stays else "")]
            if added and (name in CURVES or (together and name not in ADDITIONS | COPIES)):
                marks[0] = added
            if not kept:
                self._different.pop(place, None)
                self._joined.pop(place, None)
                if name == "_to_copy" and inputs[0].dtype == torch.bool:
                    self._answers.add(place)
            if from_image and not kept and (name in SPREADS or (pointwise and not together)):
                self._repeated(name, inputs, places, place)
            if from_image and kept and name == "copy":
                self._join(place, inputs[-1], places[-1], held)
                self._written(inputs[0], inputs[-1], inputs[0].numel(), place)
            if name in FILLS and places[-1] in self._from_image:
                self._written(inputs[0], inputs[-1], _filled(name, inputs), place)
            if name in FOLDS | PLAIN_SUMS and places[0] in self._joined:
                folded = self._folded(name, inputs[0], places[0], out)
                marks = [new or mark for new, mark in zip(folded, marks, strict=True)]
            multiplied = together and from_image and (name not in FACTORS or not number)
            if multiplied and name not in COPIES and out.dtype != torch.bool:
                several = [each for each in inputs if self._distinct(each) > 1]
                largest = max(self._distinct(each) for each in from_image)
                if len(several) == 1 and any(each is several[0] for each in from_image):
                    if not kept:  # scaled or moved by single numbers
                        self._different[place] = largest
                elif out.numel() > largest:
                    said = f"{name} of {out.numel()} values from at most {largest}"
                    marks[name in ADDITIONS] = f"a product of broadcast operands ({said})"
                elif name not in ADDITIONS and self._is_weighted(inputs, places, out):
                    marks[2] = f"a product with weights ({name} of {out.numel()} values)"
            for known, mark in zip((self._products, self._sums, self._dots), marks, strict=True):
                if mark:
                    known[place] = mark
                elif not kept:
                    known.pop(place, None)

    def _repeated(self, name: str, inputs: list[Tensor], places: list[int], place: int) -> None:
        """Note how many values an operator may have repeated, unless they are those of something
        else that the image only picks."""
        parts = list(zip(inputs, places, strict=True))
        if name not in JOINS:
            if places[0] not in self._from_image:
                return
            parts = [(each, at) for each, at in parts if at in self._from_image]
        elif len(parts) > 1:
            for each, at in parts:
                self._join(place, each, at)
        if name not in JOINS and places[0] in self._joined:
            self._joined[place] = self._joined[places[0]]
        sources = {at: self._distinct(each) for each, at in parts}
        self._different[place] = sum(sources.values())

    def _join(self, place: int, part: Tensor, at: int, held: bool = False) -> None:
        """Note what was put together in one memory.

        Args:
            place: of the whole.
            part: that was put there.
            at: its memory.
            held: whether nothing but weights was there before.
        """
        image, weights = self._joined.get(place, (0, part.numel() if held else 0))
        count = self._distinct(part)
        if at in self._from_image:
            image = max(image, count)
        elif at in self._weights:
            weights = max(weights, count)
        self._joined[place] = image, weights

    def _folded(self, name: str, joined: Tensor, at: int, out: Tensor) -> list[str]:
        """The marks of values that come of several in one tensor: products if those are of image
        and weights, or of more pairs than the image has values."""
        image, weights = self._joined[at]
        said = f"({name} of {joined.numel()} values that were put together)"
        broadcast = joined.numel() > self._distinct(joined)
        if name in PLAIN_SUMS:
            added = broadcast and out.numel() > image
            return ["", f"a product of broadcast operands {said}" if added else "", ""]
        if out.numel() < 2:
            return ["", "", ""]
        if broadcast:
            return [f"a product of broadcast operands {said}", "", ""]
        return ["", "", f"a product with weights {said}" if weights == out.numel() else ""]

    def _written(self, into: Tensor, source: Tensor, written: int, place: int) -> None:
        """Note what writing into memory has repeated in it.

        Args:
            into: what is written to, or a copy of it.
            source: of the values.
            written: how many are.
            place: of the memory with the values.
        """
        values = self._distinct(source)
        whole = into.untyped_storage().nbytes() // into.element_size()
        before = self._different.get(self._memory.of(into), whole)
        if values >= written == into.numel():
            before = whole if into.numel() == whole else before + values
        self._different[place] = min(whole, max(values, before - max(0, written - values)))

    def _is_weighted(self, inputs: list[Tensor], places: list[int], out: Tensor) -> bool:
        """Whether each of several values meets a weight of its own. Decisions that pick among whole
        numbers add up prices."""
        picked = not out.is_floating_point() and any(
            each.dtype == torch.bool or at in self._answers
            for each, at in zip(inputs, places, strict=True)
        )
        known = self._held if picked else self._weights
        return out.numel() > 1 and any(
            at in known and self._distinct(each) == out.numel()
            for each, at in zip(inputs, places, strict=True)
        )

    def _distinct(self, value: Tensor) -> int:
        """How many values a tensor holds, those that `expand`, windows that overlap or a copy
        repeats counted once."""
        count, reach = 1, 1
        for size, stride in zip(value.shape, value.stride(), strict=True):
            count *= size if stride else 1
            reach += (size - 1) * stride
        return min(count, max(reach, 0), self._different.get(self._memory.of(value), count))


call_directly(Witness)


def _filled(name: str, inputs: list[Tensor]) -> int:
    """How many values an operator of `FILLS` writes."""
    into, source = inputs[0], inputs[-1]
    indices = inputs[1:-1]
    if name != "index_put" or any(each.dtype == torch.bool for each in indices):
        return min(source.numel(), into.numel())
    places = int(torch.broadcast_shapes(*(each.shape for each in indices)).numel())
    return max(source.numel(), places * into[(0,) * len(indices)].numel())


def _kind(func: Any, args: Any) -> str:
    """The operator's name without the underscore of its form in place, or that of an operator
    which does what its arguments make of it."""
    name: str = func._overloadpacket.__name__.rstrip("_")
    if name == "scatter" and "reduce" in func._overloadname:
        return "scatter_add"
    if name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm") and args[5]:
        return "_native_batch_norm_legit"  # with statistics of what it is given
    return name


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors(each)
