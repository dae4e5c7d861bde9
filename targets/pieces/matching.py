"""Whether translated weights are those of a network: the last step of every import of official
checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import GatebenchError, WeightsError


def matching_state(
    ours: Mapping[str, Tensor],
    build: Callable[..., nn.Module],
    parameters: Mapping[str, Any],
    network: str,
    problems: list[str],
) -> dict[str, Tensor]:
    """The state of `build(**parameters)`, complete and of its types; counters that old frameworks
    did not save are 0.

    Args:
        ours: name of ours -> tensor.
        build: only ever built on the meta device.
        parameters: what the weights resemble most.
        network: its name, for messages.
        problems: what was wrong already.

    Raises:
        WeightsError: there is no such network, or listing every missing, unexpected or misshapen
            entry.
    """
    try:
        with torch.device("meta"):
            expected = build(**parameters).state_dict()
    except GatebenchError as error:
        raise WeightsError(
            f"this is no {network} checkpoint of a known depth: {error.message}"
        ) from error
    counters = {
        name: like
        for name, like in expected.items()
        if name.endswith("num_batches_tracked") and name not in ours
    }
    found = {
        **ours,
        **{name: torch.zeros(like.shape, dtype=like.dtype) for name, like in counters.items()},
    }
    problems = [
        *problems,
        *(
            f"missing: {name} {list(like.shape)}"
            for name, like in expected.items()
            if name not in found
        ),
        *(
            f"unexpected: {name} {list(value.shape)}"
            for name, value in found.items()
            if name not in expected
        ),
        *(
            f"misshapen: {name} is {list(value.shape)}, expected {list(expected[name].shape)}"
            for name, value in found.items()
            if name in expected and value.shape != expected[name].shape
        ),
        *(
            f"rounded: {name} is {value.dtype}, expected {expected[name].dtype}"
            for name, value in found.items()
            if name in expected
            and expected[name].is_floating_point()
            and not value.is_floating_point()
        ),
    ]
    if problems:
        shown = ", ".join(f"{key} = {value}" for key, value in parameters.items())
        raise WeightsError(
            f"these weights do not fit {network} ({shown}), which they resemble "
            f"most\n{listing(problems)}"
        )
    return {
        name: found[name].detach().to("cpu", like.dtype).clone() for name, like in expected.items()
    }


def plain_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names and tensors of a released checkpoint, without its wrapper and `module.` prefixes.

    Args:
        state: name -> tensor, or a dictionary with such a `state_dict`.

    Raises:
        WeightsError: something else lies there, or two tensors that differ have one name without
            the prefix; lists them.
    """
    inner = state.get("state_dict", state)
    if not isinstance(inner, Mapping):
        raise WeightsError(
            f"'state_dict' holds a {type(inner).__name__}, not a mapping of names to tensors"
        )
    problems = [
        f"not a tensor: {name} ({type(value).__name__})"
        for name, value in inner.items()
        if not isinstance(value, Tensor)
    ]
    if problems:
        raise WeightsError(listing(problems))
    return renamed(inner, lambda name: name.removeprefix("module."))


def renamed(state: Mapping[Any, Tensor], name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """The same tensors under other names; two that are equal may get one name.

    Args:
        state: name -> tensor.
        name_of: old name -> new one.

    Raises:
        WeightsError: two that differ would have one name, as those of two networks in one file;
            lists them.
    """
    found: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    problems = []
    for old, value in state.items():
        new = name_of(str(old))
        if new in found and not torch.equal(found[new], value):
            problems.append(f"contradictory: {origins[new]} and {old} are both {new}, but differ")
        found.setdefault(new, value)
        origins.setdefault(new, str(old))
    if problems:
        raise WeightsError(
            f"these weights hold more than one network\n{listing(problems)}",
            hint="save one network's alone, or name it by --part",
        )
    return found


def listing(problems: list[str], most: int = 40) -> str:
    """Problems, a line each."""
    lines = [f"  {problem}" for problem in problems[:most]]
    if len(problems) > most:
        lines.append(f"  … and {len(problems) - most} more")
    return "\n".join(lines)
