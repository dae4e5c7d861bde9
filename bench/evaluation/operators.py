"""Which operators are counted, and how; which are free; everything else is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.evaluation.counters import ATEN_OPS_MAPPING

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


def _convolution(inputs: Any, outputs: Any) -> int:
    """What a traced module calls, with four arguments more than ptflops takes."""
    return int(ATEN_OPS_MAPPING[aten.convolution](inputs[:9], outputs))


def _rnn_layer(inputs: Any, outputs: Any) -> int:
    """One layer in one direction; each weight, and bias if any, is used once a step."""
    steps, weights, biases = inputs[0], inputs[1:3], inputs[3:5] if inputs[12] else ()
    return _steps(steps) * sum(int(each.numel()) for each in (*weights, *biases))


def _rnn(inputs: Any, outputs: Any) -> int:
    """All layers; the second argument lists every weight and bias, each used once a step."""
    return _steps(inputs[0]) * sum(int(each.numel()) for each in inputs[1])


def _steps(sequence: Tensor) -> int:
    """Time steps of all sequences together."""
    return int(sequence.numel()) // int(sequence.shape[-1])


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
        aten._convolution: _convolution,
        aten.mkldnn_rnn_layer: _rnn_layer,
        aten._cudnn_rnn: _rnn,
        aten.miopen_rnn: _rnn,
    }
    return table | {getattr(aten, name): _attention for name in attention}


HOOKS = _hooks()

FREE = frozenset(
    """
    _adaptive_avg_pool2d _batch_norm_no_update _fused_dropout _fused_rms_norm
    _local_scalar_dense _log_softmax _native_batch_norm_legit
    _native_batch_norm_legit_no_training _prelu_kernel _safe_softmax _softmax
    _thnn_fused_gru_cell _thnn_fused_lstm_cell _to_copy _unsafe_index _unsafe_view
    _weight_norm_interface
    adaptive_max_pool2d alias all amax amin any arange argmax argmin argsort as_strided
    avg_pool1d avg_pool2d avg_pool3d bernoulli bincount broadcast_tensors bucketize cat
    channel_shuffle chunk clone col2im constant_pad_nd contiguous copy count_nonzero
    cudnn_batch_norm cummax cumprod cumsum detach diagonal embedding empty empty_like
    empty_strided equal expand exponential eye fill flatten flip floor_divide full full_like
    gather glu grid_sampler_2d hardswish im2col index index_add index_copy index_fill index_put
    index_select is_nonzero is_same_size isin item kthvalue lift lift_fresh linalg_norm
    linalg_vector_norm linspace log_sigmoid_forward logsumexp masked_fill masked_scatter
    masked_select max max_pool2d_with_indices max_pool3d_with_indices mean median min
    miopen_batch_norm multinomial narrow native_batch_norm native_channel_shuffle native_dropout
    native_group_norm native_layer_norm new_empty new_empty_strided new_full new_ones new_zeros
    nonzero norm normal one_hot ones ones_like permute pixel_shuffle pixel_unshuffle prod rand
    rand_like randn randn_like random reflection_pad2d repeat replication_pad2d reshape resize
    roll rot90 rrelu_with_noise scalar_tensor scatter scatter_add searchsorted select
    select_scatter set slice slice_scatter sort split split_copy split_with_sizes squeeze
    squeeze_copy stack std std_mean sum sym_numel sym_size sym_stride t tile to topk transpose
    tril triu unbind unfold uniform unique unsafe_chunk unsafe_split unsafe_split_with_sizes
    unsqueeze _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d var var_mean view view_as view_copy zero zeros zeros_like
    """.split()
)
"""Operators that multiply nothing worth counting: views, indexing, reductions, pooling, creation.
"""

_FREE_TAGS = [
    tag for tag in (torch.Tag.pointwise, getattr(torch.Tag, "reduction", None)) if tag is not None
]

_NAMESPACES = ("aten", "prim", "prims", "profiler")
"""Where free operators live; those of the profiler only label."""

_LIBRARY: Any = torch.library
_DEFINED = frozenset(_LIBRARY._defs)
"""Operators that torch itself defines in Python."""
_REPLACED = frozenset(_LIBRARY._impls)
"""Kernels that torch itself adds in Python, "namespace/operator/dispatch key" each."""


def foreign_operators() -> frozenset[str]:
    """Operators ("aten::relu") that a plugin defined in a namespace of torch's, or gave another
    kernel: their names say nothing of what they do."""
    found = set(_LIBRARY._defs) - _DEFINED
    for key in set(_LIBRARY._impls) - _REPLACED:
        namespace, _, rest = key.partition("/")
        name, _, backend = rest.rpartition("/")
        if backend != "Meta":
            found.add(f"{namespace}::{name}")
    return frozenset(name.partition(".")[0] for name in found)


def is_counted(packet: Any) -> bool:
    """Whether an operator's MACs are counted."""
    return packet in ATEN_OPS_MAPPING or packet in HOOKS


def is_accounted(func: Any, packet: Any) -> bool:
    """Whether an operator is counted or known to be free.

    Args:
        func: the overload that runs.
        packet: its operator.
    """
    if is_counted(packet) or func.namespace == "profiler":
        return True
    if func.namespace not in _NAMESPACES:
        return False
    name = packet.__name__
    return name in FREE or name.rstrip("_") in FREE or any(tag in func.tags for tag in _FREE_TAGS)
