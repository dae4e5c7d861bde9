"""Where in a network a pretrained state belongs: under which prefix, paired by name or by order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from bench.errors import WeightsError
from bench.weights.parts import WeightsPart, fitted

if TYPE_CHECKING:
    from torch import Tensor, nn


def placed(
    network: nn.Module, found: Mapping[str, Tensor], source: str, rows: tuple[int, ...] = ()
) -> tuple[WeightsPart, dict[str, Tensor]] | None:
    """The part of a network that a state is the weights of, where it is all that can be trained.

    Args:
        network: such as one without exits around a pretrained classifier.
        found: the state, in its order.
        source: where it comes from.
        rows: of the last layer that are kept; empty keeps all.

    Returns:
        (the part, without a digest, its tensors by the names of the network); None where it fits
        nowhere.
    """
    expected = network.state_dict()
    prefixes = {
        name[: place + 1] for name in expected for place, sign in enumerate(name) if sign == "."
    }
    trained = [name for name, _ in network.named_parameters()]
    ways: tuple[Literal["name", "order"], ...] = ("name", "order")
    for match in ways:
        for prefix in sorted(prefixes, key=len, reverse=True):
            part = WeightsPart(prefix, source, "", match=match, rows=rows)
            ours = {key: value for key, value in expected.items() if key.startswith(prefix)}
            if len(ours) != len(found) or not all(name.startswith(prefix) for name in trained):
                continue
            try:
                tensors = fitted(part, found, expected, source)
            except WeightsError:
                continue
            if all(
                key in ours and value.shape == ours[key].shape for key, value in tensors.items()
            ):
                return part, tensors
    return None
