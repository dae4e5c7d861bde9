"""Checks of what a target returns once: shapes, values, prices, and whether it was changed.

What is wrong raises `ContractBroken`, and the cell becomes `invalid`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from bench.contracts.target import Output, Target
from bench.errors import ContractBroken
from bench.evaluation.plain import plain
from bench.store.target import FloatNoise


def freeze(target: Target) -> dict[str, Tensor]:
    """Switch to eval mode, with no gradient for any weight.

    Returns:
        A copy of the state, for `check_unchanged`.

    Raises:
        ContractBroken: a module is lazy and has no weights yet.
    """
    target.eval()
    state = target.state_dict()
    for name, value in state.items():
        if isinstance(value, UninitializedParameter | UninitializedBuffer):
            raise ContractBroken(
                f"{name} has no shape yet (a lazy module)",
                hint="give every module its size, or evaluate one image in __init__",
            )
        if not isinstance(value, Tensor):
            raise ContractBroken(
                f"{name} of the state is {type(value).__name__}, no tensor",
                hint="weights are plain tensors; quantized modules are not counted either",
            )
    target.requires_grad_(False)
    return {name: value.detach().clone() for name, value in state.items()}


def check_unchanged(target: Target, state: dict[str, Tensor], who: str) -> None:
    """Whether a target is in eval mode and has the weights that it had.

    Args:
        target: after it was used.
        state: what `freeze` returned.
        who: had it in hand, for the message.

    Raises:
        ContractBroken: naming the module in train mode, or the weights that differ.
    """
    training = [name or "the target" for name, module in target.named_modules() if module.training]
    if training:
        raise ContractBroken(
            f"{who} switched {training[0]} to train mode", hint="leave train() and eval() alone"
        )
    now = {name: plain(value, name) for name, value in target.state_dict().items()}
    other: list[str] = []
    same: list[str] = []
    for name, before in state.items():
        kept = name in now and (now[name].shape, now[name].dtype) == (before.shape, before.dtype)
        (same if kept else other).append(name)
    if same:  # asked of the device once for all weights
        moved = torch.stack([(now[name] != state[name]).any() for name in same]).tolist()
        other += [name for name, is_moved in zip(same, moved, strict=True) if is_moved]
    if other:
        raise ContractBroken(
            f"{who} changed the target's weights: {other[0]}",
            hint="evaluating writes to no parameter and no buffer",
        )


def plain_output(output: Any, target: Target, count: int) -> Output:
    """The output in plain tensors of the shapes and types that were promised, in the same graph.

    No value is read, so that nobody waits for a device.

    Args:
        output: what `forward` or `execute` returned.
        target: that returned it.
        count: of images, N.

    Raises:
        ContractBroken: a class, a shape or a type is not as promised.
    """
    if not isinstance(output, Output):
        raise ContractBroken(
            f"the target returned {type(output).__name__}, expected a bench.api.Output",
            hint="return Output(logits, margins, logit_margins, decisions)",
        )
    units = len(target.units)
    expected = {
        "logits": (count, target.classes),
        "margins": (count, units),
        "logit_margins": (count, units),
        "decisions": (count, units),
    }
    found: dict[str, Tensor] = {}
    for name, shape in expected.items():
        value = found[name] = plain(getattr(output, name), f"the target's {name}")
        if tuple(value.shape) != shape:
            raise ContractBroken(
                f"the target's {name} have shape {tuple(value.shape)}, expected {shape}",
                hint="one row an image; one column a class in logits, one a unit "
                "elsewhere, as Units names them",
            )
        if name != "decisions" and not value.is_floating_point():
            raise ContractBroken(
                f"the target's {name} are {value.dtype}, expected floats",
                hint="return floating-point values: logits and margins before they are compared",
            )
    if found["decisions"].dtype != torch.bool:
        raise ContractBroken(
            f"the target's decisions are {found['decisions'].dtype}, expected torch.bool",
            hint="compare with a threshold, for example margins > 0, or call .bool()",
        )
    exits: Any = output.exits
    if exits is not None:
        exits = plain(exits, "the target's exits")
        if exits.ndim != 3 or (exits.shape[0], exits.shape[2]) != (count, target.classes):
            raise ContractBroken(
                f"the target's exits have shape {tuple(exits.shape)}, expected "
                f"({count}, exits, {target.classes})",
                hint="stack the logits of all exits in dimension 1, or leave exits at None",
            )
    return Output(**found, exits=exits)


def check_output(output: Any, target: Target, count: int) -> Output:
    """The output in plain tensors, its values looked at.

    Args:
        output: what `forward` or `execute` returned.
        target: that returned it.
        count: of images, N.

    Raises:
        ContractBroken: a shape, a value or a decision is not as promised.
    """
    found = plain_output(output, target, count)
    for name in ("logits", "margins", "logit_margins"):
        if not bool(torch.isfinite(getattr(found, name)).all()):
            raise ContractBroken(
                f"the target's {name} are not all finite",
                hint="look for a division by 0, a logarithm of 0 or an overflow; weights"
                " that hold NaN give it too",
            )
    if not torch.equal(target.units.admissible(found.decisions), found.decisions):
        raise ContractBroken(
            "the target runs a unit without the one that it comes after",
            hint="close decisions with units.admissible(decisions) before anything runs",
        )
    return found


def own_copy(output: Output) -> Output:
    """The output without a graph, in memory of its own: a target may write its next one into the
    tensors that it returned."""
    exits = output.exits
    return Output(
        output.logits.detach().clone(),
        output.margins.detach().clone(),
        output.logit_margins.detach().clone(),
        output.decisions.detach().clone(),
        None if exits is None else exits.detach().clone(),
    )


def is_same(first: Output, second: Output) -> bool:
    """Whether two outputs have the same logits and decisions, bit by bit."""
    return torch.equal(first.logits, second.logits) and torch.equal(
        first.decisions, second.decisions
    )


def check_forced(taken: Tensor, decisions: Tensor) -> None:
    """Whether `execute` ran exactly the units that it was told to.

    Args:
        taken: (1, U) bool, what it says it ran.
        decisions: (1, U) bool that it was given.

    Raises:
        ContractBroken: it ran others.
    """
    if not torch.equal(taken.cpu(), decisions.cpu()):
        raise ContractBroken(
            "execute was told which units to run and ran others",
            hint="where decisions are given, follow them instead of the gates, and return them",
        )


def plain_macs(target: Target, decisions: Tensor) -> Tensor:
    """The MACs that the target declares for these decisions, as a plain tensor.

    No value is read, so that nobody waits for a device.

    Args:
        target: whose `macs` is called.
        decisions: (N, U) bool.

    Returns:
        (N,) int64, a copy on the device that `macs` left them on.

    Raises:
        ContractBroken: `macs` is of the wrong type or shape.
    """
    count = len(decisions)
    found: Any = target.macs(decisions)
    expected = f"expected torch.int64 of ({count},)"
    if not isinstance(found, Tensor):
        raise ContractBroken(
            f"macs(decisions) returns {type(found).__name__}, {expected}",
            hint="for example self.base + decisions.to(torch.int64) @ self.units.cost",
        )
    macs = plain(found, "macs(decisions)")
    if macs.dtype != torch.int64 or macs.shape != (count,):
        raise ContractBroken(
            f"macs(decisions) returns {macs.dtype} of shape {tuple(macs.shape)}, {expected}",
            hint="count in integers: decisions.to(torch.int64) * units.cost",
        )
    return macs.detach().clone()


def check_macs(target: Target, decisions: Tensor) -> Tensor:
    """The MACs that the target declares for these decisions, their values looked at.

    Args:
        target: whose `macs` is called.
        decisions: (N, U) bool.

    Returns:
        (N,) int64 on the CPU, within [floor, bound].

    Raises:
        ContractBroken: `macs` is of the wrong type or shape, or out of bounds.
    """
    macs = plain_macs(target, decisions)
    if len(macs) and (int(macs.min()) < target.floor or int(macs.max()) > target.bound):
        raise ContractBroken(
            f"macs(decisions) is between {int(macs.min())} and {int(macs.max())}, outside "
            f"[{target.floor}, {target.bound}]",
            hint="override extremes, and bound where some mixture of units costs more",
        )
    return macs.cpu()


def check_marginal_macs(found: object, decisions: Tensor) -> Tensor:
    """What `Target.marginal_macs` returns for these decisions.

    Args:
        found: what it returned.
        decisions: (N, U) bool, that it was asked about.

    Returns:
        (N, U) int64 on the device of the decisions; a copy.

    Raises:
        ContractBroken: it is of the wrong type or shape.
    """
    expected = f"expected torch.int64 of {tuple(decisions.shape)}"
    hint = "what turning each decision alone would move, in integers; or leave it to the base class"
    if not isinstance(found, Tensor):
        said = f"marginal_macs(decisions) returns {type(found).__name__}, {expected}"
        raise ContractBroken(said, hint=hint)
    moved = plain(found, "marginal_macs(decisions)")
    if moved.dtype != torch.int64 or moved.shape != decisions.shape:
        said = f"marginal_macs(decisions) returns {moved.dtype} of shape {tuple(moved.shape)}"
        raise ContractBroken(f"{said}, {expected}", hint=hint)
    return moved.detach().to(decisions.device, copy=True)


def check_margins(output: Output, target: Target) -> None:
    """Whether a target's own decisions are what its margins say: attacks see the gates that decide.

    Args:
        output: of a free evaluation, in plain tensors.
        target: that returned it.

    Raises:
        ContractBroken: a unit ran unasked, or was asked for, could run and did not; or margins and
            logit margins differ in sign.
    """
    allowed = target.units.admissible(target.units.wanted(output.margins))
    clear = (output.margins.abs() > 1e-6) & (output.logit_margins.abs() > 1e-6)
    for wrong, what in (
        (output.decisions & ~allowed, "ran though its margin did not ask for it"),
        (allowed & ~output.decisions, "did not run though its margin asked for it"),
        (
            output.margins.sign() != output.logit_margins.sign(),
            "has margins and logit_margins of different signs; they share one zero set",
        ),
    ):
        if bool((wrong & clear).any()):
            unit = int((wrong & clear).nonzero()[0][1])
            raise ContractBroken(
                f"unit {target.units.name[unit]} {what}",
                hint="decide by the margins that are returned: "
                "units.admissible(units.wanted(margins))",
            )


def reached_units(target: Target, decisions: Tensor) -> Tensor:
    """(N, U) bool: the units whose own gate was read, since the unit that they come after ran.

    `execute` need not know the margins of the others.
    """
    after = target.units.column("after", decisions.device)
    return (after < 0) | decisions[:, after.clamp(min=0)]


def near_threshold(margins: Tensor, noise: FloatNoise) -> Tensor:
    """Which margins lie within the target's float noise of their threshold; bool, same shape."""
    return margins.abs() <= noise.margins


def differing_unit(
    target: Target, decisions: Tensor, others: Tensor, margins: Tensor, noise: FloatNoise
) -> int | None:
    """The unit that two evaluations of one image decide differently, beyond float noise.

    Only the first owner in which they differ is looked at; later ones depend on it.

    Args:
        target: that decided.
        decisions: (U,) bool.
        others: (U,) bool.
        margins: (U,), of either.
        noise: of the target.

    Returns:
        Its index; None where they agree, or noise explains the difference.
    """
    differ = decisions != others
    if not bool(differ.any()):
        return None
    owners = target.units.owner
    owner = owners[int(differ.nonzero()[0])]
    here = torch.tensor([each == owner for each in owners], device=differ.device)
    clear = differ & here & ~near_threshold(margins, noise)
    return int(clear.nonzero()[0]) if bool(clear.any()) else None
