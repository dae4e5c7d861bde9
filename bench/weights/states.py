"""The state dictionary inside whatever a trainer saved around it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.errors import WeightsError
from bench.weights.pickles import Inert

if TYPE_CHECKING:
    from torch import Tensor

Fits = Callable[[Mapping[str, "Tensor"]], bool]

WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model_dict", "model", "net", "network",
    "net_state_dict", "module", "params", "parameters", "weights", "weight", "checkpoint", "ckpt",
    "state", "classifier", "backbone", "encoder", "student", "teacher", "generator",
    "discriminator",
)  # fmt: skip
"""Names under which trainers save a network's state."""
_AVERAGED = re.compile(r"(?:.*[_.])?(?:ema|swa|averaged?|polyak|shadow)(?:[_.].*)?")
"""Names under which they save a running average of it."""
_PREFIXES = ("_orig_mod.", "module.", "model.")
_INSIDE = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that compiled, sharded and checkpointed modules add, at any depth."""
_DEPTH = 4
_SHOWN = 6
"""Parts that a message names."""
_KINDS = {"_reconstruct": "numpy array", "Inert": "object"}
"""What stand-ins stand for, where their name does not say it."""
_LOSSY = re.compile(r"torch\.(?:complex|float8|float4|q?u?int[1-8]$|bits|qint)\w*")


@dataclass(frozen=True)
class Found:
    """A state dictionary, where it lay, and what lay beside it.

    Attributes:
        state: tensors by name, prefixes of wrappers dropped.
        left_out: in words, what else the file holds and nobody reads: optimizers, averages,
            options.
        beside: what lay beside it at the top of the file, where trainers note epoch and accuracy.
    """

    state: dict[str, Tensor]
    left_out: tuple[str, ...]
    beside: Mapping[Any, Any] = field(default_factory=dict)


def find_state(content: Mapping[Any, Any], part: str, fits: Fits | None) -> Found:
    """The one state dictionary of a checkpoint.

    Args:
        content: as torch read it.
        part: the dotted name of the state to take ("model_ema"); "" takes the only one that is no
            average and fits.
        fits: whether a state belongs to the network that it is for; None where nobody knows the
            network.

    Raises:
        WeightsError: there is none, or more than one; the message lists them, and does not name the
            file.
    """
    states = dict(_states(content, ()))
    if part:
        chosen, prefix = _part(states, part)
        inside = _below(states[chosen], prefix) if prefix else states[chosen]
        state = _without_prefixes(inside, fits)
    else:
        chosen = _choose(content, states, fits)
        prefix, state = "", _without_prefixes(states[chosen], fits)
        if fits is not None and not fits(state):
            prefix, state = _network_inside(states[chosen], fits) or (prefix, state)
    left = [*_left_beside(states[chosen], prefix), *_left_out(content, states, chosen)]
    tops = states.get((), {})
    beside = {name: value for name, value in content.items() if str(name) not in tops}
    return Found(state, tuple(left), beside)


def _part(
    states: Mapping[tuple[str, ...], Mapping[str, Tensor]], part: str
) -> tuple[tuple[str, ...], str]:
    """(path of a state, prefix of names in it) that a part names.

    Raises:
        WeightsError: there is no such part; the message lists those that are there.
    """
    named = {".".join(path): path for path in states}
    if part in named:
        return named[part], ""
    for path, state in states.items():
        prefix = part.removeprefix(".".join((*path, ""))) + "."
        if any(name.startswith(prefix) for name in state):
            return path, prefix
    names = [name for name, path in named.items() if name and not _is_numbered(path)]
    shown = ", ".join([*names[:_SHOWN], "…"] if len(names) > _SHOWN else names)
    raise WeightsError(f"holds no part {part!r}; it holds {shown or 'no state under a name'}")


def _network_inside(
    state: Mapping[str, Tensor], fits: Fits
) -> tuple[str, dict[str, Tensor]] | None:
    """(prefix, tensors) of the one network that fits among several that share a state.

    So trainers save a network beside its loss, its average or its teacher.

    Raises:
        WeightsError: more than one fits, and they differ.
    """
    below: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        end = 0
        for _ in range(_DEPTH):
            end = name.find(".", end) + 1
            if not end:
                break
            below.setdefault(name[:end], {})[name[end:]] = value.detach()
    found = {}
    for prefix in sorted(below, key=lambda one: (one.count("."), one)):
        if fits(below[prefix]):
            found[prefix] = below[prefix]
    beside = {name: state[name] for name in state if not name.startswith(tuple(found))}
    if found and beside and fits(_without_prefixes(beside, fits)):
        raise WeightsError(
            f"holds more than one network: {', '.join(one[:-1] for one in found)}, and one beside",
            hint="--part names the one to take; the one beside has to be saved alone",
        )
    plain = [one for one in found if not any(map(_AVERAGED.fullmatch, one.split(".")[:-1]))]
    candidates = plain or list(found)
    if not candidates:
        return None
    first = candidates[0]
    if not all(_same(found[first], found[one]) for one in candidates):
        raise WeightsError(
            f"holds more than one network: {', '.join(one[:-1] for one in candidates)}",
            hint="--part names the one to take",
        )
    return first, found[first]


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def check_types(state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that have lost what float weights had, or are no plain arrays of numbers.

    Raises:
        WeightsError: naming them; the message does not name the file.
    """
    import torch

    def is_lossy(name: str, value: Tensor) -> bool:
        if value.is_quantized or value.is_complex() or value.layout != torch.strided:
            return True
        if value.device.type == "meta":
            return True
        if not value.is_floating_point():
            # a mask, an index or a counter may be; a matrix of weights was rounded
            return value.ndim > 1 and name.endswith("weight")
        return bool(_LOSSY.fullmatch(str(value.dtype)))

    lossy = [
        f"{name} ({'sparse ' if value.layout != torch.strided else ''}{value.dtype}"
        f"{' without numbers, on the meta device' if value.device.type == 'meta' else ''})"
        for name, value in state.items()
        if is_lossy(name, value)
    ]
    if lossy:
        shown = ", ".join(lossy[:5]) + (", …" if len(lossy) > 5 else "")
        raise WeightsError(
            f"holds weights that are not those the network was trained to: {shown}",
            hint="save the original floating-point weights, dense and on the CPU",
        )


def strip_prefixes(names: Sequence[str], most: int) -> list[str]:
    """Names without the first `most` prefixes that wrappers added to them."""
    found = []
    for name in names:
        plain = _INSIDE.sub("", name)
        for _ in range(most):
            prefix = next((prefix for prefix in _PREFIXES if plain.startswith(prefix)), "")
            if not prefix:
                break
            plain = plain.removeprefix(prefix)
        found.append(plain)
    return found


def _states(
    content: Mapping[Any, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """(path, tensors) of every dictionary of tensors, down to a few levels.

    Where other things lie beside the tensors, they are a state by their dotted names.
    """
    import torch

    tensors = {
        str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)
    }
    others = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if len(tensors) + len(others) != len(content):
        twice = Counter(map(str, content)).most_common(1)[0][0]
        raise WeightsError(f"holds two tensors under the name {twice!r}, as text and as number")
    if tensors and all(str(name).endswith("_extra_state") for name in others):
        yield path, tensors
        return
    if sum("." in name for name in tensors) > 1:
        yield path, tensors
    if len(path) < _DEPTH:
        for name, value in content.items():
            if isinstance(value, Mapping):
                yield from _states(value, (*path, str(name)))


def _choose(
    content: Mapping[Any, Any],
    states: Mapping[tuple[str, ...], Mapping[str, Tensor]],
    fits: Fits | None,
) -> tuple[str, ...]:
    known = [
        path
        for path in states
        if all(name in WRAPPERS or _AVERAGED.fullmatch(name) for name in path)
    ]
    plain = [path for path in known if not any(_AVERAGED.fullmatch(name) for name in path)]
    candidates = plain or known
    if len(candidates) > 1 and fits is not None:
        fitting = [path for path in candidates if fits(_without_prefixes(states[path], fits))]
        candidates = fitting or candidates
    if len(candidates) > 1 and all(
        _same(states[candidates[0]], states[path]) for path in candidates
    ):
        candidates = candidates[:1]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        shown = ", ".join(".".join(path) or "tensors beside" for path in candidates)
        raise WeightsError(
            f"holds more than one state dictionary: {shown}",
            hint="--part names the one to take",
        )
    raise _nothing(content, states)


def _nothing(content: Mapping[Any, Any], states: Iterable[tuple[str, ...]]) -> WeightsError:
    """Why there is no state to take."""
    import torch

    others = [".".join(path) for path in states if not _is_numbered(path)]
    if not others and any(states):
        return WeightsError(
            "holds the state of an optimizer and no network's",
            hint="save the network's: torch.save(model.state_dict(), …)",
        )
    if others:
        return WeightsError(
            f"holds no state dictionary under a usual name, but {', '.join(others[:5])}",
            hint=f"--part {others[0]} takes that",
        )
    wrapped = next((name for name in WRAPPERS if name in content), None)
    if wrapped is not None and not isinstance(content[wrapped], (Mapping, torch.Tensor)):
        kind = type(content[wrapped]).__name__
        return WeightsError(f"its {wrapped!r} is a {kind}, not a dictionary of tensors")
    inner = content[wrapped] if wrapped is not None else content
    strangers = [
        f"{name} ({_KINDS.get(type(value).__name__, type(value).__name__)})"
        for name, value in (inner.items() if isinstance(inner, Mapping) else ())
        if not isinstance(value, torch.Tensor)
    ]
    shown = ", ".join(strangers[:10]) or "it is empty"
    return WeightsError(
        f"is no state dictionary: {shown}",
        hint="expected tensors by name, or a wrapper with 'state_dict'",
    )


def _without_prefixes(state: Mapping[str, Tensor], fits: Fits | None) -> dict[str, Tensor]:
    """A state under the names of the bare network: those that fit, else without any prefix.

    Raises:
        WeightsError: two names differ in their prefixes alone.
    """
    counted = "n_averaged" in state and any(name.startswith("module.") for name in state)
    names = [name for name in state if not (counted and name == "n_averaged")]
    depth = max((name.count(".") for name in names), default=0)
    tried: list[list[str]] = []
    for most in range(depth + 1):
        plain = strip_prefixes(names, most)
        if tried and plain == tried[-1]:
            break
        tried.append(plain)
    if fits is not None:
        for plain in tried:
            renamed = {new: state[old].detach() for new, old in zip(plain, names, strict=True)}
            if len(renamed) == len(names) and fits(renamed):
                return renamed
    found: dict[str, Tensor] = {}
    for new, old in zip(tried[-1], names, strict=True):
        if new in found:
            raise WeightsError(f"holds {new} twice, with and without the prefix of a wrapper")
        found[new] = state[old].detach()
    return found


def _left_out(
    content: Mapping[Any, Any],
    states: Mapping[tuple[str, ...], Mapping[str, Tensor]],
    chosen: tuple[str, ...],
) -> Iterator[str]:
    """In words, what is not read: other states, and whatever is no plain value."""
    import torch

    named = [path for path in states if not _is_numbered(path)]
    for path in named:
        state = states[path]
        if path != chosen:
            average = any(_AVERAGED.fullmatch(name) for name in path)
            kind = "a running average" if average else "another state"
            yield f"{'.'.join(path) or 'what lies beside'} ({kind}, {len(state)} tensors)"
    if "n_averaged" in states[chosen]:
        yield "n_averaged (a counter of averaging)"
    tops = {path[0] for path in named if path}
    for name, value in content.items():
        if not chosen and str(name).endswith("_extra_state"):
            continue
        if str(name) in tops or isinstance(value, (str, int, float, torch.Tensor, type(None))):
            continue
        kind = "object" if type(value) is Inert else type(value).__name__
        yield f"{name} ({kind})"


def _is_numbered(path: Sequence[str]) -> bool:
    """Whether a state is one of many of a kind, as those of an optimizer: "optimizer.state.0"."""
    return any(name.isdecimal() for name in path[1:])


def _left_beside(state: Mapping[str, Tensor], prefix: str) -> Iterator[str]:
    """In words, the tensors of a state beside the network that was taken from it."""
    if not prefix:
        return
    beside = [name for name in state if not name.startswith(prefix)]
    shared = prefix.rpartition(".")[0].rpartition(".")[0]
    inside = (
        f"{shared}." if shared and all(name.startswith(f"{shared}.") for name in beside) else ""
    )
    for top, count in Counter(
        name.removeprefix(inside).partition(".")[0] for name in beside
    ).items():
        kind = "a running average, " if _AVERAGED.fullmatch(top) else ""
        yield f"{inside}{top} ({kind}{count} tensors)"


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two states hold the same tensors under the same names."""
    import torch

    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and torch.equal(value, other[name])
        for name, value in one.items()
    )
