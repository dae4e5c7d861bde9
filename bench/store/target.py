"""target.json: what a target says of itself in a cell's folder, and what was found out about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import RunFolderError
from bench.files.regular import read_regular
from bench.store.documents import SCHEMA, Count, Natural, Size, read_document

TARGET = "target.json"


@dataclass(frozen=True)
class UnitColumns:
    """The units of a target, a column each (see `bench.api.Units`).

    Attributes:
        name: of each unit.
        kind: of each unit.
        owner: of each unit.
        shape: of each unit's map.
        cost: MACs of the work that each unit alone guards.
        threshold: of each unit's gate value.
        alarm: places of the units that are a response to an alarm.
    """

    name: tuple[str, ...]
    kind: tuple[str, ...]
    owner: tuple[str, ...]
    shape: tuple[tuple[Count, ...], ...]
    cost: tuple[Count, ...]
    threshold: tuple[float, ...]
    alarm: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.name)


@dataclass(frozen=True)
class FloatNoise:
    """How far a target's outputs move by its float noise alone."""

    logits: Size
    margins: Size


@dataclass(frozen=True)
class DatasetWords:
    """What a data set says of itself.

    Attributes:
        name: "NAME:SPLIT", as it turned out to be.
        note: "for trying, not for claims" and such; may be empty.
        credits: lines to show with the pictures.
    """

    name: str
    note: str
    credits: tuple[str, ...]


@dataclass(frozen=True)
class GradientCounts:
    """What `bench.evaluation.masking` found on a few clean images.

    Attributes:
        images: that miss a unit which there is room for.
        zero: of these, those without any gradient.
        saturated: those whose gates are mostly saturated.
        misled: those where no step along the gradient opens anything.
        without_surrogates: those that would have no gradient without surrogates.
        hard_masks: whether the defense switched off straight-through masks.
    """

    images: Count
    zero: Count
    saturated: Count
    misled: Count
    without_surrogates: Count
    hard_masks: bool


@dataclass(frozen=True)
class Yardstick:
    """What a short attack of the harness's own reached (`bench.evaluation.yardstick`).

    Attributes:
        steps: how many it took; 0 where there was none.
        cost: forward-equivalents an image that it used.
        macs: most MACs that it reached, on each of the board's first images.
    """

    steps: Count = 0
    cost: Count = 0
    macs: tuple[Count, ...] = ()


@dataclass(frozen=True)
class TargetDescription:
    """A target with its defense, as the cells on it describe it.

    Attributes:
        floor: MACs of its cheapest decisions.
        ceiling: MACs of its dearest decisions.
        reference: ceiling of the network without its defense, which savings are measured against.
        bound: MACs that the target promises never to exceed.
        draws: over how many draws it is scored; 1 for a target that is not random.
        noise: its float noise.
        classes: names of the classes.
        dataset: what it was run on.
        control: whether nothing of it can be won back.
        units: its units.
        gradients: what its gradients look like.
        yardstick: what a short attack reached on the first images.
        image_shape: (C, H, W) of the images that it was run on; () in older runs.
        trained_on: data set that its weights were trained on, "" where nobody said.
    """

    floor: Count
    ceiling: Count
    reference: Natural
    bound: Count
    draws: Natural
    noise: FloatNoise
    classes: tuple[str, ...]
    dataset: DatasetWords
    control: bool
    units: UnitColumns
    gradients: GradientCounts
    trained_on: str = ""
    yardstick: Yardstick = Yardstick()
    image_shape: tuple[Natural, ...] = ()

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """(width, height) of the pictures of its cells; None in older runs."""
        if not self.image_shape:
            return None
        _, height, width = self.image_shape
        return width, height

    def document(self) -> dict[str, Any]:
        """As written to target.json."""
        return {"schema": SCHEMA, **asdict(self)}


def read_target(folder: Path) -> TargetDescription:
    """The description in a cell's folder.

    Raises:
        RunFolderError: it is not there, damaged, or does not hang together.
    """
    path = folder / TARGET
    try:
        data = read_regular(path)
    except OSError:
        data = b""
    if data not in _KNOWN:
        found = _read(path)
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[data] = found
    return _KNOWN[data]


_KNOWN: dict[bytes, TargetDescription] = {}
"""Descriptions that were read before, by their bytes: all cells on one target hold the same."""
_MOST_KNOWN = 64


def _read(path: Path) -> TargetDescription:
    found = read_document(path, TargetDescription, called="description of a target")
    units = found.units
    columns = units.name, units.kind, units.owner, units.shape, units.cost, units.threshold
    if len({len(column) for column in columns}) != 1 or any(
        not 0 <= place < len(units) for place in units.alarm
    ):
        raise RunFolderError(f"{path} is no description of a target: its units are torn")
    if len(found.image_shape) not in (0, 3):
        raise RunFolderError(
            f"{path} is no description of a target: its images have {len(found.image_shape)} sides"
        )
    if not found.floor <= found.ceiling <= found.bound:
        raise RunFolderError(
            f"{path} is no description of a target: "
            f"floor {found.floor}, ceiling {found.ceiling}, bound {found.bound}"
        )
    return found
