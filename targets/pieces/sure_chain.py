"""Classifiers in a row, of which the first that is sure enough answers: what exits on the way and
cascades of networks have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from bench.api import Output, Target, Units
from targets.pieces.confidence import confidence, first_sure, log_odds, require_threshold
from targets.pieces.folding import folded

_USUAL = 0.8
"""Threshold before weights bring theirs."""


class SureChain(Target):
    """U + 1 classifiers; unit k is the work between classifiers k and k + 1.

    It runs when the largest softmax of classifier k is below T and all before it ran. Gate value
    G = 1 - max softmax, threshold 1 - T, strict; the logit margin is log(T / (1 - T)) less the
    log-odds of the most likely class.

    Attributes:
        threshold: () float64, T; part of the weights.
        fixed: T as given to the constructor, None where the weights bring it.
    """

    threshold: Tensor
    _prefix: Tensor

    def link(
        self, threshold: float | Literal["weights"], prefix: Tensor, names: Sequence[str], kind: str
    ) -> None:
        """Set up threshold, costs and units; the last thing that a constructor does.

        Args:
            threshold: T, or "weights".
            prefix: (U + 1,) int64, MACs up to each classifier.
            names: of the U units.
            kind: of all of them.

        Raises:
            PlanError: the threshold is not in (0, 1).
        """
        self.fixed = None if threshold == "weights" else require_threshold(threshold)
        first = _USUAL if self.fixed is None else self.fixed
        self.register_buffer("threshold", torch.tensor(first, dtype=torch.float64))
        self.register_buffer("_prefix", prefix, persistent=False)
        with torch.device("cpu"):
            self.units = Units.chain(
                names, prefix.diff().tolist(), kind=kind, high=1 - 1 / self.classes
            )
        nn.Module.register_load_state_dict_post_hook(self, _after_loading)
        self.set_threshold(_USUAL if self.threshold.is_meta else float(self.threshold))

    def set_threshold(self, threshold: float) -> None:
        """Take answers from this confidence on; a threshold given to the constructor stays.

        Raises:
            PlanError: it is not in (0, 1).
        """
        kept = require_threshold(threshold if self.fixed is None else self.fixed)
        if not self.threshold.is_meta:
            self.threshold.fill_(kept)
        column = torch.full((len(self.units),), 1 - kept, dtype=torch.float64)
        self.units = replace(self.units, threshold=column)

    def equivalent(self) -> Target:
        """This network with its normalizations folded into its convolutions."""
        return folded(self)

    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64, by the number of units that run before the first that does not."""
        passed = decisions.to(torch.int64).cumprod(1).sum(1)
        return self._prefix.to(decisions.device)[passed]

    def margins(self, logits: Tensor) -> Tensor:
        """(...) T less the confidence of (..., K) logits."""
        return self.threshold.to(logits.dtype) - confidence(logits)

    def logit_margins(self, logits: Tensor) -> Tensor:
        """(...) the same zero set, with a slope where the softmax has none left."""
        return torch.logit(self.threshold).to(logits.dtype) - log_odds(logits)

    def answer(self, found: Tensor, decisions: Tensor | None) -> Output:
        """The output from (N, U + 1, K) logits of all classifiers, by the own rule or by given
        decisions (N, U)."""
        margins = self.margins(found[:, :-1])
        runs = (
            self._runs(margins)
            if decisions is None
            else decisions.to(margins.device).cumprod(1) > 0
        )
        logits = found[torch.arange(len(found), device=found.device), first_sure(~runs)]
        return Output(logits, margins, self.logit_margins(found[:, :-1]), runs, found)

    def answer_of_one(self, found: Sequence[Tensor]) -> Output:
        """The output of one image, from the logits (1, K) of the classifiers that it reached.

        Margins of those that it did not reach are T - 1, as if they were sure, and the logits of
        the last one reached stand in their place.
        """
        count = len(self.units)
        reached = torch.stack(list(found), 1)
        filled = reached[:, -1:].expand(-1, count + 1 - reached.shape[1], -1)
        exits = torch.cat([reached, filled], 1)
        place = torch.arange(count, device=exits.device)
        seen, filler = place < len(found), (self.threshold - 1).to(exits.dtype)
        return Output(
            reached[:, -1],
            self.margins(exits[:, :-1]).where(seen, filler),
            self.logit_margins(exits[:, :-1]).where(seen, filler),
            (place < len(found) - 1)[None],
            exits,
        )

    def goes_on(self, unit: int, logits: Tensor, decisions: Tensor | None) -> bool:
        """Whether a unit runs on one image, after the logits (1, K) of the classifier before it."""
        if decisions is not None:
            return bool(decisions[:, unit])
        margin = self.margins(logits)[:, None]
        return bool(self.admit(unit, margin, margin > 0))

    def _runs(self, margins: Tensor) -> Tensor:
        """(N, U) bool, what runs by the own rule: each unit if the one before it ran and the
        classifier between them was not sure."""
        runs, before = [], torch.ones(len(margins), 1, dtype=torch.bool, device=margins.device)
        for at, margin in enumerate(margins.detach().split(1, 1)):
            before = self.admit(at, margin, before & (margin > 0))
            runs.append(before)
        return torch.cat(runs, 1) if runs else before[:, :0]


def _after_loading(target: SureChain, _: object) -> None:
    target.set_threshold(float(target.threshold))
