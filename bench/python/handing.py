"""Objects of a program as components of a plan: each gets a name that holds while it runs."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

from bench.contracts.attack import Attack
from bench.contracts.dataset import Dataset
from bench.contracts.defense import Defense
from bench.contracts.target import Target
from bench.errors import PlanError
from bench.plugins.declarations import ClassFacts
from bench.plugins.registry import HANDED_OVER, HandedOver

_CONSTANTS = ("version", "control", "fits", "members")
_numbers = itertools.count(1)


@dataclass
class HandingOver:
    """The objects of one call.

    Attributes:
        objects: what `registry.handing_over` takes.
    """

    objects: list[HandedOver] = field(default_factory=list)

    def target(self, given: Target, name: str) -> dict[str, Any]:
        """The [[target]] table of a target.

        Args:
            given: with its weights; it is copied, and stays as it is.
            name: of its class.
        """
        use = self._add("target", given, lambda: copy.deepcopy(given), {"version": given.version})
        return {"use": use, "weights": "", "label": name}

    def defense(self, given: Defense) -> dict[str, Any]:
        """The [[defense]] table of a defense."""
        use = self._add("defense", given, lambda: copy.deepcopy(given), _constants(given))
        return {"use": use, "label": label_of(given)}

    def attack(self, given: Attack) -> dict[str, Any]:
        """The [[attack]] table of an attack."""
        use = self._add("attack", given, lambda: copy.deepcopy(given), _constants(given))
        return {"use": use, "label": label_of(given)}

    def dataset(self, given: Dataset) -> str:
        """The name of a data set in a plan, "NAME:SPLIT"."""
        facts = {"sizes": {given.split: len(given)}, "image_shape": tuple(given.image_shape)}
        use = self._add("dataset", given, _opening(given), facts)
        return f"{use}:{given.split}"

    def _add(
        self, kind: str, given: object, make: Callable[..., Any], constants: Mapping[str, Any]
    ) -> str:
        name = f"{type(given).__name__}-{next(_numbers)}"
        value = f"{type(given).__module__}:{type(given).__qualname__}"
        facts = ClassFacts(type(given).__doc__ or "", {}, constants)
        self.objects.append(HandedOver(kind, name, value, HANDED_OVER, "", make, facts))
        return f"{HANDED_OVER}/{name}"


def _opening(given: Dataset) -> type[Dataset]:
    """A class of data sets that, asked for its only split, returns this one."""

    def opened(cls: type[Dataset], split: str, data_root: Path | None = None) -> Dataset:
        return given

    return type("Given", (Dataset,), {"splits": (given.split,), "__new__": opened})


def _constants(given: object) -> dict[str, Any]:
    return {name: getattr(given, name) for name in _CONSTANTS if hasattr(given, name)}


def label_of(given: object) -> str:
    """The class of an object, and the parameters that are not at their defaults.

    Example:
        >>> from attacks.gradauto import GradAuto
        >>> label_of(GradAuto()), label_of(GradAuto(K=0.1))
        ('GradAuto', 'GradAuto K=0.1')
    """
    name = type(given).__name__
    if not is_dataclass(given):
        return name
    told = [
        f"{one.name}={value}"
        for one in fields(given)
        if one.repr and (value := getattr(given, one.name)) != one.default
    ]
    return " ".join([name, ", ".join(told)]).strip()


def checked_table(given: str | Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The table that a name or a table of a plan means.

    Raises:
        PlanError: it is neither.
    """
    if isinstance(given, str):
        return {"use": given}
    if isinstance(given, Mapping):
        return dict(given)
    raise PlanError(
        f"{kind}: expected a name, a table as in a plan, or an object of bench.api."
        f"{kind.capitalize()}, got {re.sub(r'^<class |>$', '', repr(type(given)))}"
    )


def checked_number(given: object, what: str) -> int:
    """A whole number of at least 1.

    Raises:
        PlanError: it is none.
    """
    if isinstance(given, Integral) and not isinstance(given, bool) and (found := int(given)) >= 1:
        return found
    raise PlanError(f"{what}: expected a whole number of at least 1, got {given!r}")


def checked_folder(given: str | Path | None, what: str) -> Path | None:
    """The path of a folder; None where none is given.

    Raises:
        PlanError: it is no path.
    """
    if given is None or isinstance(given, str | PathLike):
        return Path(given) if given else None
    raise PlanError(f"{what}: expected the path of a folder, got {given!r}")
