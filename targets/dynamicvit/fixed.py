"""DynamicViT as released: as many tokens on every image, so that no attack can win anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.errors import PlanError
from targets.dynamicvit.network import STAGES, DynamicViT


class FixedTokens(DynamicViT):
    """A vision transformer that keeps the k best patch tokens at each of three stages: a fixed
    budget, the control that attacks cannot move (DynamicViT as released).

    Args:
        backbone: "vit-WIDTHxDEPTH" for 32x32 images with 8x8 patch tokens, or 4x4 with "-p8"
            behind it; or any plain vision transformer of timm ("deit_small_patch16_224").
        ratio: rho in (0, 1]; stage s of 1, 2, 3 keeps floor(P rho^s) of P patch tokens, 137, 96 and
            67 of 196 at 0.7.
        num_classes: "auto" is 10, and 1000 for models of timm.

    Which tokens are kept depends on the image, how many does not: floor, clean cost and ceiling are
    the same number. Unit: a patch token from one stage to the next; its margin is the distance of
    its log p(keep) from the middle between the k-th and the (k+1)-th largest of those that are
    left, the first of equals winning.

    Source: Rao et al., DynamicViT: Efficient Vision Transformers with Dynamic Token
    Sparsification, NeurIPS 2021, section 3.
    """

    follows = (
        "Rao et al., DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification, "
        "NeurIPS 2021"
    )
    unit = "a patch token from one stage to the next; as many run for every image"
    admits = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deit-tiny": {"backbone": "deit_tiny_patch16_224"},
        "deit-small": {"backbone": "deit_small_patch16_224"},
    }
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {"ratio": (0, 1)}

    def __init__(
        self,
        *,
        backbone: str = "vit-32x6",
        ratio: float = 0.7,
        num_classes: int | Literal["auto"] = "auto",
    ) -> None:
        if not 0 < ratio <= 1:
            raise PlanError(f"ratio = {ratio}: a share of the tokens, above 0 and at most 1")
        super().__init__(backbone=backbone, num_classes=num_classes)
        self.ratio = ratio
        total = len(self.units)
        column = torch.ones(total, dtype=torch.float64)
        self.units = replace(
            self.units, threshold=column * 0, low=column * -math.inf, high=column * math.inf
        )

    def winners(self, stage: int) -> int:
        """floor(P rho^s) of stage s - 1."""
        return int(self.patches * self.ratio ** (stage + 1) + 1e-9)

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Any k tokens of each stage cost the same: the first k, twice."""
        first = torch.cat(
            [torch.arange(self.patches) < self.winners(stage) for stage in range(STAGES)]
        )[None]
        return first, first.clone()

    def keep(self, stage: int, scores: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """The distance of each value from the middle between the last winner and the first loser,
        twice."""
        value = scores[:, :, 0]
        k = self.winners(stage)
        hard = value.detach().masked_fill(~left, -math.inf)
        order = hard.argsort(dim=1, descending=True, stable=True)
        middle = self._middle(hard.gather(1, order), k)
        wins = torch.zeros_like(left).scatter(1, order[:, :k], True)
        margin = value - middle
        # rounding puts the middle of neighbours onto one of them, and equals onto each other
        clear = torch.where(wins, margin.clamp(min=_CLEAR), margin.clamp(max=-_CLEAR))
        margin = margin + (clear - margin).detach()
        return margin, margin

    def _middle(self, ranked: Tensor, k: int) -> Tensor:
        """(N, 1) what lies between winners and losers; values that are not left are -inf."""
        before = ranked[:, max(k, 1) - 1 : max(k, 1)]
        behind = ranked[:, k : k + 1] if k < self.patches else before
        both = torch.where(behind.isfinite() & (k > 0), (before + behind) / 2, before)
        return torch.where(both.isfinite(), both, torch.zeros_like(both))


_CLEAR = 1e-6
"""How far from 0 a margin stands at least, since which of equals wins is decided by their order."""
