"""What really ran: ptflops counts `execute`, and the declared cost is held against it.

The counter is ptflops' aten engine, a dispatch mode around one `execute` of one real image: it sees the shapes that were
multiplied, so a skipped block costs nothing and a sliced convolution its slice. Every aten operator must be counted,
hooked or free; any other is reported by name. torch's own counter runs in the same pass as a second opinion (it leaves
biases out, so it may never be above).
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.contracts.target import Output, Target
from bench.errors import ContractBroken
from bench.evaluation.counters import ATEN_OPS_MAPPING, PtflopsMode, TorchMode, call_directly

aten = torch.ops.aten


def _matrix_vector(inputs: Any, outputs: Any) -> int:
    return int(inputs[0].numel())


def _added_matrix_vector(inputs: Any, outputs: Any) -> int:
    return int(inputs[1].numel() + outputs[0].numel())


def _dot(inputs: Any, outputs: Any) -> int:
    return int(inputs[0].numel())


def _batched(inputs: Any) -> int:
    return int(inputs[1].numel() * inputs[2].shape[-1])


def _baddbmm(inputs: Any, outputs: Any) -> int:
    return _batched(inputs) + int(outputs[0].numel())


def _attention(inputs: Any, outputs: Any) -> int:
    query, key, value = inputs[:3]
    scores = query.numel() // query.shape[-1] * key.shape[-2]
    return int(scores * (query.shape[-1] + value.shape[-1]))


def _hooks() -> dict[Any, Any]:
    """Counts for the multiplying operators that ptflops leaves out."""
    attention = [
        name
        for name in dir(aten)
        if name.startswith("_scaled_dot_product") and "backward" not in name
    ]
    table = {
        aten.mv: _matrix_vector,
        aten.addmv: _added_matrix_vector,
        aten.dot: _dot,
        aten.vdot: _dot,
        aten.baddbmm: _baddbmm,
        aten.addbmm: _baddbmm,
    }
    return table | {getattr(aten, name): _attention for name in attention}


HOOKS = _hooks()

FREE = frozenset(
    """
    _adaptive_avg_pool2d _batch_norm_no_update _fused_dropout _local_scalar_dense _log_softmax _native_batch_norm_legit_no_training
    _softmax _thnn_fused_lstm_cell _thnn_fused_gru_cell _to_copy _unsafe_view _weight_norm_interface adaptive_max_pool2d alias amax amin any
    all arange argmax argmin argsort as_strided avg_pool2d bernoulli bincount broadcast_tensors bucketize cat chunk clone constant_pad_nd
    contiguous copy count_nonzero cummax cumprod cumsum cudnn_batch_norm detach diagonal embedding empty empty_like empty_strided equal
    expand eye fill flatten flip full full_like gather im2col index index_add index_copy index_fill index_put index_select is_nonzero
    is_same_size item lift lift_fresh linalg_norm linalg_vector_norm linspace logsumexp masked_fill masked_scatter masked_select max
    max_pool2d_with_indices mean median min miopen_batch_norm multinomial native_batch_norm native_dropout native_group_norm
    native_layer_norm new_empty new_empty_strided new_full new_ones new_zeros nonzero norm one_hot ones ones_like permute pixel_shuffle
    pixel_unshuffle prod rand rand_like randn randn_like reflection_pad2d repeat replication_pad2d reshape resize roll rot90 scalar_tensor
    scatter scatter_add searchsorted select select_scatter set slice slice_scatter sort split split_with_sizes squeeze stack std std_mean
    sum sym_numel sym_size sym_stride t tile to topk transpose tril triu unbind unfold unique unsqueeze upsample_bicubic2d
    upsample_bilinear2d
    upsample_nearest2d var var_mean view view_as zero zeros zeros_like
    _fused_rms_norm _native_batch_norm_legit _prelu_kernel _safe_softmax avg_pool1d avg_pool3d channel_shuffle col2im exponential glu
    grid_sampler_2d hardswish isin kthvalue log_sigmoid_forward max_pool3d_with_indices narrow native_channel_shuffle normal random
    rrelu_with_noise split_copy squeeze_copy unsafe_chunk unsafe_split unsafe_split_with_sizes uniform upsample_linear1d
    upsample_nearest1d view_copy floor_divide
    """.split()
)
"""Operators that multiply nothing worth counting: views, indexing, reductions, normalisation, pooling, creation."""

_FREE_TAGS = [
    tag for tag in (torch.Tag.pointwise, getattr(torch.Tag, "reduction", None)) if tag is not None
]


@dataclass(frozen=True)
class Count:
    """One counted execution.

    Attributes:
        macs: of ptflops. second: MACs by torch's own counter, biases left out.
        operators: how often each aten operator was seen.
        unknown: operators that are neither counted, hooked nor free.
        output: what `execute` returned.
    """

    macs: int
    second: int
    operators: dict[str, int]
    unknown: tuple[str, ...]
    output: Output


class _Witness(TorchDispatchMode):
    """Sees every aten operator that runs."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.seen: Counter[str] = Counter()
        self.unknown: set[str] = set()
        self.inference = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        name = packet.__name__
        self.seen[name] += 1
        self.inference |= torch.is_inference_mode_enabled()
        if not _accounted(func, packet, name):
            self.unknown.add(str(packet))
        return func(*args, **(kwargs or {}))


call_directly(_Witness)


def _accounted(func: Any, packet: Any, name: str) -> bool:
    if packet in ATEN_OPS_MAPPING or packet in HOOKS:
        return True
    if func.namespace not in ("aten", "prim", "prims"):
        return False
    return name in FREE or name.rstrip("_") in FREE or any(tag in func.tags for tag in _FREE_TAGS)


def count(target: Target, image: Tensor, decisions: Tensor | None = None) -> Count:
    """Execute one image and count it.

    Args:
        target: in eval mode.
        image: (1, C, H, W) in [0,1].
        decisions: (1, U) bool to force, or None for the target's own.

    Raises:
        ContractBroken: an operator is neither counted nor free, or torch's counter saw more than ptflops'.
    """
    witness = _Witness()
    ptflops = PtflopsMode(
        output_params=defaultdict(dict, print_params={"file": io.StringIO()}), custom_hooks=HOOKS
    )
    second = TorchMode(display=False)
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for mode in (second, ptflops, witness):
            stack.enter_context(mode)
        output = target.execute(image, decisions)
    if witness.inference:
        raise ContractBroken(
            "execute runs under torch.inference_mode, where ptflops sees nothing",
            hint="use torch.no_grad instead",
        )
    result = Count(
        int(ptflops.complexity or 0),
        second.get_total_flops() // 2,
        dict(witness.seen),
        tuple(sorted(witness.unknown)),
        output,
    )
    if result.unknown:
        raise ContractBroken(
            f"execute uses {', '.join(result.unknown)}, which ptflops does not count and which is not known to be free",
            hint="use operators that are counted (convolutions, mm, addmm, bmm, LSTM cells …)",
        )
    if result.second > result.macs:
        raise ContractBroken(
            f"torch's own counter sees {result.second} MACs where ptflops sees {result.macs}"
        )
    return result


def audit_extremes(target: Target, image: Tensor) -> tuple[int, int]:
    """Execute the cheapest and the dearest admissible decisions; their counts must be `floor` and `ceiling`, as integers.

    Returns:
        (floor, ceiling), as counted.

    Raises:
        ContractBroken: a declared bound is not what was counted.
    """
    counted = []
    for name, decisions in zip(("floor", "ceiling"), target.extremes(), strict=True):
        seen = audit(target, image, decisions.to(image.device)).macs
        declared = getattr(target, name)
        if declared != seen:
            raise ContractBroken(
                f"the {name} is declared as {declared} MACs, but ptflops counts {seen} when it is executed"
            )
        counted.append(seen)
    return counted[0], counted[1]


def audit(target: Target, image: Tensor, decisions: Tensor | None = None) -> Count:
    """Count one execution and hold `macs(decisions)` against it, as integers.

    Raises:
        ContractBroken: `macs` differs from the count, or forced decisions were not followed.
    """
    result = count(target, image, decisions)
    taken = result.output.decisions
    if decisions is not None and not torch.equal(taken.cpu(), decisions.cpu()):
        raise ContractBroken("execute was told which units to run and ran others")
    declared = int(target.macs(taken)[0])
    if declared != result.macs:
        raise ContractBroken(
            f"macs(decisions) says {declared}, but ptflops counts {result.macs} when the image is executed"
        )
    return result
