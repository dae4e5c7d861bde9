"""What really ran: ptflops counts `execute`, and the declared cost is compared with it.

The counter is ptflops' aten engine, a dispatch mode around one `execute` of one real image: it sees
the shapes that were multiplied, so a skipped block costs nothing and a sliced convolution its
slice. Every aten operator must be counted, hooked or free; any other is reported by name. torch's
own counter runs in the same pass as a second opinion (it leaves biases out, so it may never be
above).

What cannot be counted is refused where it can be seen: sums of broadcast products and
of products with weights (`bench.evaluation.witness`), and results that do not come from the
operators seen (`bench.evaluation.outside`). What can not be seen: a sum written out as many
additions, results kept for images that a target has met in other processes.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts.target import Output, Target
from bench.errors import ContractBroken
from bench.evaluation.counters import PtflopsMode, TorchMode, uncompiled
from bench.evaluation.operators import HOOKS
from bench.evaluation.outputs import check_forced, check_output, is_same, own_copy
from bench.evaluation.outside import check_nothing_outside
from bench.evaluation.seeds import seeded
from bench.evaluation.witness import Witness

COUNTED = "convolutions, linear layers, mm, bmm, scaled_dot_product_attention, RNN, GRU and LSTM"
"""What is counted, for messages."""


@dataclass(frozen=True)
class Count:
    """One counted execution.

    Attributes:
        macs: of ptflops.
        second: MACs by torch's own counter, biases left out.
        operators: how often each aten operator was seen.
        unknown: operators that are neither counted nor free.
        output: what `execute` returned, in plain tensors.
    """

    macs: int
    second: int
    operators: dict[str, int]
    unknown: tuple[str, ...]
    output: Output


def count(target: Target, image: Tensor, decisions: Tensor | None = None) -> Count:
    """Execute one image and count it.

    Args:
        target: in eval mode.
        image: (1, C, H, W) in [0,1].
        decisions: (1, U) bool to force, or None for the target's own.

    Raises:
        ContractBroken: an operator is neither counted nor free, a sum of products is not counted,
            or torch's counter saw more than ptflops'.
    """
    handed = image.clone()
    witness = Witness(handed, [*target.parameters(), *target.buffers()])
    ptflops = _ptflops()
    second = TorchMode(display=False)
    with torch.no_grad(), uncompiled(), _slow_attention(), contextlib.ExitStack() as stack:
        for mode in (second, ptflops, witness):
            stack.enter_context(mode)
        returned = target.execute(handed, decisions)
    _check_seen(witness)
    output = own_copy(check_output(returned, target, 1))
    result = Count(
        int(ptflops.complexity or 0),
        second.get_total_flops() // 2,
        dict(witness.seen),
        tuple(sorted(witness.unknown)),
        output,
    )
    if result.second > result.macs:
        raise ContractBroken(
            f"torch's own counter sees {result.second} MACs where ptflops sees {result.macs}",
            hint=f"use operators that are counted ({COUNTED})",
        )
    return result


def _ptflops() -> PtflopsMode:
    """A counter that prints nothing."""
    return PtflopsMode(
        output_params=defaultdict(dict, print_params={"file": io.StringIO()}), custom_hooks=HOOKS
    )


def count_layers(target: Target, image: Tensor, decisions: Tensor) -> dict[str, int]:
    """MACs that ptflops counts in each layer, by its name in the network.

    Args:
        target: in eval mode.
        image: (1, C, H, W) in [0,1].
        decisions: (1, U) bool to force.

    Returns:
        Layers that multiply, in the order of the network; last "outside of layers", where modules
        are not called but functions.
    """
    mode, handles = _ptflops(), []
    for name, module in target.named_modules():
        if name and next(module.children(), None) is None:
            handles.append(module.register_forward_pre_hook(mode.enter_module(name)))
            handles.append(module.register_forward_hook(mode.exit_module(name)))
    try:
        with torch.no_grad(), uncompiled(), _slow_attention(), mode:
            target.execute(image.clone(), decisions)
    finally:
        for handle in handles:
            handle.remove()
    total = {name: sum(macs.values()) for name, macs in mode.flop_counts.items()}
    found = {name: total[name] for name, _ in target.named_modules() if total.get(name)}
    outside = total.get("Global", 0) - sum(found.values())
    return {**found, "outside of layers": outside} if outside else found


@contextlib.contextmanager
def _slow_attention() -> Iterator[None]:
    """Attention and transformer layers operator by operator, as they are counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _check_seen(witness: Witness) -> None:
    """Whether everything that ran was counted or is free."""
    if witness.inference:
        raise ContractBroken(
            "execute runs under torch.inference_mode, where ptflops sees nothing",
            hint="use torch.no_grad instead",
        )
    if witness.unknown:
        raise ContractBroken(
            f"execute uses {', '.join(sorted(witness.unknown))}, which ptflops does not count and "
            "which is not known to be free",
            hint=f"use operators that are counted ({COUNTED})",
        )
    if witness.summed:
        raise ContractBroken(
            f"execute adds up {witness.summed}, a matrix product or convolution that no counter "
            "sees",
            hint="write it as a convolution, a linear layer, matmul or einsum",
        )


def audit_extremes(target: Target, image: Tensor) -> tuple[int, int]:
    """Execute the cheapest and the dearest admissible decisions and count them.

    Args:
        target: in eval mode.
        image: (1, C, H, W) in [0,1].

    Returns:
        (floor, ceiling), as counted.

    Raises:
        ContractBroken: a declared bound is not what was counted, or what `execute` computes is not
            all done by the operators that are counted.
    """
    counted = []
    for name, decisions in zip(("floor", "ceiling"), target.extremes(), strict=True):
        found = audit(target, image, decisions.to(image.device))
        declared = getattr(target, name)
        if declared != found.macs:
            raise ContractBroken(
                f"the {name} is declared as {declared} MACs, but ptflops counts {found.macs} when "
                f"it is executed{_where(target, image)}",
                hint="override extremes where not all units off and on are admissible",
            )
        counted.append(found.macs)
        check_nothing_outside(target, image, decisions.to(image.device))
    return counted[0], counted[1]


def check_first_execution(target: Target, image: Tensor, again: Count | None = None) -> Count:
    """Whether `execute` answers for an image alike before and after `forward` has seen it.

    Args:
        target: in eval mode.
        image: (1, C, H, W) in [0,1].
        again: what the first call returned, for the second call.

    Returns:
        The counted execution.

    Raises:
        ContractBroken: the two differ, or what `execute` computes is not all done by the operators
            that are counted.
    """
    with seeded(target, torch.zeros(1, dtype=torch.int64)):
        found = audit(target, image)
        if again is not None and not is_same(found.output, again.output):
            raise ContractBroken(
                "execute answers otherwise once forward has seen the image",
                hint="keep nothing between two calls of forward or execute",
            )
        check_nothing_outside(target, image, found.output.decisions)
    return found


def audit(target: Target, image: Tensor, decisions: Tensor | None = None) -> Count:
    """Count one execution; `macs(decisions)` has to equal it, as integers.

    Args:
        target: in eval mode.
        image: (1, C, H, W) in [0,1].
        decisions: (1, U) bool to force, or None for the target's own.

    Raises:
        ContractBroken: `macs` differs from the count, or forced decisions were not followed.
    """
    result = count(target, image, decisions)
    taken = result.output.decisions
    if decisions is not None:
        check_forced(taken, decisions)
    declared = _declared(target, taken)
    if declared != result.macs:
        raise ContractBroken(
            f"macs(decisions) says {declared}, but ptflops counts {result.macs} when the image is "
            f"executed{_where(target, image)}",
            hint="declare what execute multiplies in this thread, biases included; leave out in "
            "execute what is not declared",
        )
    return result


def _declared(target: Target, decisions: Tensor) -> int:
    """What `macs` says of one row of decisions.

    Raises:
        ContractBroken: it returns no tensor of one number.
    """
    said: object = target.macs(decisions)
    if not isinstance(said, Tensor) or said.shape != (1,):
        shape = f" of shape {tuple(said.shape)}" if isinstance(said, Tensor) else ""
        raise ContractBroken(
            f"macs(decisions) returns {type(said).__name__}{shape}, expected a tensor of one "
            "number a row, (N,) int64",
            hint="for example self.base + decisions.to(torch.int64) @ self.units.cost",
        )
    return int(said[0])


def _where(target: Target, image: Tensor) -> str:
    """A table of what differs, to be added to a message; "" where there is none."""
    from bench.evaluation.differences import explained

    table = explained(
        target,
        lambda d: count(target, image, d.to(image.device)).macs,
        lambda d: count_layers(target, image, d.to(image.device)),
    )
    return f"\n{table}" if table else ""
