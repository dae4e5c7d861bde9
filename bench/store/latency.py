"""latency.json: what `gatebench latency` measured of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.contracts.cell import defended_name
from bench.store.documents import SCHEMA, Natural, Size

LATENCY = "latency.json"


@dataclass(frozen=True)
class Machine:
    """What times may be compared within."""

    device: str
    threads: Natural
    torch: str
    python: str


@dataclass(frozen=True)
class Timed:
    """Times of one (target, defense).

    Attributes:
        target: by label.
        defense: by label, "" for none.
        median_ms: of a clean image.
        adversarial_ms: of an image of its dearest attack.
        ratio: of the first to the undefended target's; None for that itself.
        images: that were executed.
        repeats: how often.
    """

    target: str
    defense: str
    median_ms: Size
    adversarial_ms: Size
    ratio: Size | None
    images: Natural
    repeats: Natural

    @property
    def defended(self) -> str:
        """The target with its defense, in words."""
        return defended_name(self.target, self.defense)


@dataclass(frozen=True)
class Latency:
    """All times of a run, and the machine they were taken on.

    Attributes:
        machine: what they may be compared within.
        entries: one for each (target, defense).
        cells: key -> digest of the cells whose images were executed, one a target; older files and
            baselines lack it.
    """

    machine: Machine
    entries: tuple[Timed, ...]
    cells: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As written to latency.json."""
        found = {"schema": SCHEMA, **asdict(self)}
        if not self.cells:
            del found["cells"]
        return found
