"""An attack that returns images which are there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts.attack import Attack, Job, View
from bench.contracts.cell import HANDED_IN, Component
from bench.files.canonical import digest
from bench.image import to_float


@dataclass(frozen=True, kw_only=True, eq=False)
class Given(Attack):
    """Images that were handed in; it looks at nothing.

    Attributes:
        saved: id -> (C, H, W) uint8.
    """

    saved: Mapping[str, Tensor]

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        """The images of the batch."""
        return to_float(torch.stack([self.saved[name] for name in job.ids])).to(images)


def component(label: str, content: Mapping[str, str]) -> Component:
    """What stands in a plan for images that were handed in.

    Args:
        label: on the board.
        content: row -> digest of its pixels; all rows of the attack.
    """
    return Component(
        name="images",
        distribution=HANDED_IN,
        value="",
        label=label,
        params={"images": digest(dict(content))},
        series=label,
    )
