"""Defenses that seem to help: each hides, lies or pretends in one way, around an honest network."""

import os
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F

from bench.api import Defense, Output
from bench.testing import ToyTarget
from targets.defenses.wrapped import Wrapped

Kind = Literal[
    "none", "dearer", "rounding", "masks-off", "masks-swallowed", "saturated", "saturated-unseen", "backwards", "another-network",
    "under-gradients", "remembers", "price-in-company", "idle-gate", "pretends-to-draw",
]  # fmt: skip


class Trickster(Wrapped):
    """A defense that plays one trick."""

    def __init__(self, inner, trick):
        super().__init__(inner)
        self.trick = trick
        self.seen = []
        if trick == "dearer":
            self.overhead = 3 * 8 * 8 * 27
        if trick == "masks-off":
            inner.evaluation = replace(inner.evaluation, mask_grad="none")
        if trick == "pretends-to-draw":
            self.draws = 2

    def before(self, images):
        if self.trick == "dearer":
            channels = images.shape[1]
            kernel = torch.zeros(channels, channels, 3, 3)
            kernel[range(channels), range(channels), 1, 1] = 1
            return F.conv2d(images, kernel, padding=1)
        if self.trick == "rounding":
            return (images * 15).round() / 15
        if self.trick == "backwards":
            return images.detach() * 2 - images
        return images

    def forward(self, images, decisions=None):
        if self.trick == "masks-swallowed":
            with self.inner.evaluating(mask_grad="none"):
                return super().forward(images, decisions)
        output = self._dressed(super().forward(images, decisions))
        if decisions is not None:
            return output
        if self.trick == "under-gradients" and images.requires_grad:
            return Output(
                output.logits,
                output.margins.abs(),
                output.logit_margins.abs(),
                torch.ones_like(output.decisions),
            )
        if self.trick == "remembers":
            return self._remembering(images, output)
        if self.trick == "idle-gate":
            return Output(
                output.logits,
                output.margins * 1e-9,
                output.logit_margins * 1e-9,
                torch.zeros_like(output.decisions),
            )
        return output

    def execute(self, image, decisions=None):
        return self._dressed(super().execute(image, decisions))

    def _dressed(self, output):
        """Gates without a slope, said openly or behind modest logits."""
        if self.trick == "saturated":
            return Output(
                output.logits, output.margins, output.logit_margins * 1e4, output.decisions
            )
        if self.trick == "saturated-unseen":
            return Output(
                output.logits,
                (output.logit_margins * 1e6).sigmoid() - 0.5,
                output.logit_margins * 1e-3,
                output.decisions,
            )
        return output

    def _remembering(self, images, output):
        """Whoever asked for gradients nearby is shown closed gates."""
        if images.requires_grad:
            self.seen.append(images.detach().clone())
            return output
        known = torch.zeros(len(images), dtype=torch.bool)
        for before in self.seen:
            known |= torch.tensor(
                [bool(((one - before).abs().mean((1, 2, 3)) < 0.02).any()) for one in images]
            )
        closed = torch.where(known[:, None], -output.margins.abs() - 1e-3, output.margins)
        return Output(
            output.logits,
            closed,
            torch.where(known[:, None], closed, output.logit_margins),
            output.decisions & ~known[:, None],
        )

    def macs(self, decisions):
        true = super().macs(decisions)
        return (
            torch.full_like(true, self.inner.floor)
            if self.trick == "price-in-company" and len(decisions) > 2
            else true
        )

    @property
    def undefended(self):
        return _Larger() if self.trick == "another-network" else self.inner.undefended


class _Larger(ToyTarget):
    def macs(self, decisions):
        return 10 * super().macs(decisions)


class Trick(Defense):
    """A defense that seems to help.

    Args:
        trick: how.
    """

    def __init__(self, *, trick: Kind = "none") -> None:
        self.trick = trick

    def wrap(self, target, learnt=None):
        return Trickster(target, self.trick)


class Fitful(Defense):
    """Learns something else every time, and behaves alike whatever it learned."""

    fits = True

    def fit(self, target, images):
        return {"drawn": torch.tensor(list(os.urandom(8)))}

    def wrap(self, target, learnt=None):
        return Wrapped(target)
