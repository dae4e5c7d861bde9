"""Parts of a network's weights that lie elsewhere: in other weights, or in an installed package.

Exits on a pretrained network are kilobytes, the network is megabytes. A manifest stores the exits
and says where the rest lies, with its digest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "weights:"
"""How a source begins that is other weights."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class WeightsPart:
    """Tensors of a network that lie elsewhere.

    Attributes:
        prefix: of their names in the network, such as "backbone.net.".
        source: "weights:NAME", or as `bench.weights.sources` reads it.
        sha256: of the source's file; for other weights their `Entry.digest`.
        inside: prefix of their names in the source; what does not begin with it is not theirs.
        match: "name" where source and network call them the same; "order" pairs them in their
            order, and checks the last word of each name and each shape.
        rows: of the last layer that are kept, in this order; empty keeps all.
        licence: SPDX identifier, or "unknown".
        install: what to install where the source is a package that is missing.
    """

    prefix: str
    source: str
    sha256: str
    inside: str = ""
    match: Literal["name", "order"] = "name"
    rows: tuple[int, ...] = ()
    licence: str = "unknown"
    install: str = ""

    def table(self) -> dict[str, Any]:
        """As a manifest has it, without the prefix; what is empty is left out."""
        names = ("source", "sha256", "inside", "match", "rows", "licence", "install")
        found = {name: getattr(self, name) for name in names}
        found["rows"] = list(self.rows)
        return {key: value for key, value in found.items() if value}


def parse_part(prefix: str, table: object, where: str, problems: list[str]) -> WeightsPart | None:
    """One part as a manifest has it; None, and words in `problems`, where anything is wrong.

    Args:
        prefix: of the names in the network.
        table: as TOML has it.
        where: the entry, for messages.
        problems: hears what is wrong.
    """
    place = f"[{where}] parts.{prefix!r}"
    if not isinstance(table, Mapping):
        problems.append(f"{place} is no table")
        return None
    known = dict(table)
    rows = known.pop("rows", [])
    wrong = [
        f"{place}: {key!r} is no text" for key, value in known.items() if not isinstance(value, str)
    ]
    strangers = known.keys() - ({one.name for one in fields(WeightsPart)} - {"prefix"})
    wrong += [f"{place}: unknown key {key!r}" for key in sorted(strangers)]
    wrong += [f"{place} has no {key!r}" for key in ("source", "sha256") if key not in known]
    if not isinstance(rows, list) or not all(type(row) is int and row >= 0 for row in rows):
        wrong.append(f"{place}: rows is no list of whole numbers")
    if not wrong and known.get("match", "name") not in ("name", "order"):
        wrong.append(f'{place}: match is "name" or "order"')
    if not wrong and not _DIGEST.fullmatch(known["sha256"]):
        wrong.append(f"{place}: sha256 is not 64 hexadecimal digits")
    if wrong:
        problems += wrong
        return None
    return WeightsPart(prefix, rows=tuple(rows), **known)


def fitted(
    part: WeightsPart, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    """The tensors of a part under the names that the network has for them.

    Args:
        part: to fit.
        found: the source's tensors, in its order.
        expected: the network's own, by their whole names, in its order.
        name: of the weights, for messages.

    Raises:
        WeightsError: naming the first tensors that cannot be paired; or there are rows to keep, and
            no layer that has them and others.
    """
    theirs = _below(found, part.inside)
    ours = _below(expected, part.prefix)
    if part.match == "name":
        pairs = [(key, value, ours.get(key)) for key, value in theirs.items()]
    elif len(theirs) != len(ours):
        raise WeightsError(
            f"weights {name!r}: {part.source} holds {len(theirs)} tensors, "
            f"the network has {len(ours)}"
        )
    elif _is_sorted(theirs):
        raise WeightsError(
            f"weights {name!r}: {part.source} holds its tensors sorted by name, 10 before 2, so "
            "their order is not the network's"
        )
    else:
        pairs = [
            (wanted, value, like)
            for value, (wanted, like) in zip(theirs.values(), ours.items(), strict=True)
        ]
        for key, (wanted, value, like) in zip(theirs, pairs, strict=True):
            _check_alike(part, key, value, wanted, like, name)
    if part.rows and not any(_has_rows(value, part.rows, like) for _, value, like in pairs):
        raise WeightsError(
            f"weights {name!r}: rows keep {len(part.rows)} classes of the last layer, and no layer "
            f"of {part.source} has other classes than the network"
        )
    return {part.prefix + key: _kept(value, part.rows, like) for key, value, like in pairs}


def _is_sorted(names: Iterable[str]) -> bool:
    """Whether names are in text order, and in another order than numbers in them count."""
    found = list(names)
    counted = sorted(found, key=lambda name: [one.zfill(9) for one in re.split(r"(\d+)", name)])
    return found == sorted(found) != counted


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }


def _check_alike(
    part: WeightsPart, key: str, value: Tensor, wanted: str, like: Tensor | None, name: str
) -> None:
    """Refuse a pair whose names end differently, or whose shapes differ."""
    kept = _kept(value, part.rows, like)
    if (
        like is None
        or key.rpartition(".")[2] != wanted.rpartition(".")[2]
        or kept.shape != like.shape
    ):
        shape = [] if like is None else list(like.shape)
        raise WeightsError(
            f"weights {name!r}: in {part.source}, {key} {list(value.shape)} stands where the "
            f"network has {wanted} {shape}"
        )


def _kept(value: Tensor, rows: tuple[int, ...], like: Tensor | None) -> Tensor:
    """The chosen rows of a tensor of the last layer; other tensors as they are."""
    return value[list(rows)] if _has_rows(value, rows, like) else value


def _has_rows(value: Tensor, rows: tuple[int, ...], like: Tensor | None) -> bool:
    """Whether a tensor is one of the last layer, of which the network has the chosen rows alone."""
    if not rows or like is None or not value.ndim or value.shape == like.shape:
        return False
    return len(like) == len(rows) and value.shape[1:] == like.shape[1:] and len(value) > max(rows)
