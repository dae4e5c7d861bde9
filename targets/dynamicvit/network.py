"""DynamicViT by a threshold: a vision transformer that drops, at a few stages, the tokens that a
predictor would rather not keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.api import Evaluation, Output, Units
from bench.errors import PlanError
from targets.dynamicvit.official import translate
from targets.dynamicvit.predictor import KeepPredictor
from targets.pieces.counting import require_one
from targets.vit import TransformerBackbone

STAGES = 3
"""Stages where tokens are dropped."""

Predict = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(stage, (N, T, D) tokens, (N, P) bool which patch tokens are left) -> (the tokens, (N, P, 2)
log-probabilities of keeping and dropping; anything for those that are not left)."""
Advance = Callable[[int, Tensor, Tensor, Tensor | None], Tensor]
"""(block, (N, T, D) tokens, (N, T) bool which of them run it, their straight-through mask) -> the
tokens behind it."""


class DynamicViT(TransformerBackbone):
    """A vision transformer that drops patch tokens at three stages, those whose probability of
    being kept is at most a threshold (DynamicViT, threshold form).

    Args:
        backbone: "vit-WIDTHxDEPTH" for 32x32 images with 8x8 patch tokens, or 4x4 with "-p8"
            behind it; or any plain vision transformer of timm ("deit_small_patch16_224").
        threshold: T in (0, 1), above which a token is kept.
        num_classes: "auto" is 10, and 1000 for models of timm.

    In front of blocks L/4, L/2 and 3L/4 (3, 6 and 9 of 12, from 0) a predictor says p(keep) of each
    patch token that is left, from its features and the mean over those that are left. A dropped
    token leaves attention, as query and as key, for good; the class token always stays.

    The released network keeps a fixed number of tokens, the best of them, so that no attack can
    move its cost: that is the target `fixed-tokens`. This one keeps a token iff p(keep) > T, which
    at T = 0.5 is log p(keep) > log p(drop): the decision that the network is trained by (hard
    Gumbel-softmax), with the ratio of kept tokens constrained over the batch and not for each
    image, as the released loss does where its option `dynamic` is set. It is a variant, and says
    nothing of the released one's robustness.

    Unit: a patch token from one stage to the next; its gate value is p(keep), its logit margin
    log p(keep) - log p(drop) - logit(T), and it comes after the same token one stage earlier. Masks
    are straight-through in training, and so by default (`mask_grad`).

    Source: Rao et al., DynamicViT: Efficient Vision Transformers with Dynamic Token
    Sparsification, NeurIPS 2021, section 3.
    """

    follows = (
        "Rao et al., DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification, "
        "NeurIPS 2021; the threshold is a variant"
    )
    unit = "a patch token from one stage to the next"
    skipped = (
        "dropped tokens: their rows of every layer and of later predictors, and them as keys of "
        "the others"
    )
    forks = True
    admits = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deit-tiny": {"backbone": "deit_tiny_patch16_224"},
        "deit-small": {"backbone": "deit_small_patch16_224"},
    }
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {"threshold": (0, 1)}

    def __init__(
        self,
        *,
        backbone: str = "vit-32x6",
        threshold: float = 0.5,
        num_classes: int | Literal["auto"] = "auto",
    ) -> None:
        if not 0 < threshold < 1:
            raise PlanError(f"threshold = {threshold}: a probability above 0 and below 1")
        super().__init__(backbone, num_classes)
        self.threshold = threshold
        self.evaluation = Evaluation(mask_grad="ste")
        self.stages = tuple(self.depth * stage // (STAGES + 1) for stage in range(1, STAGES + 1))
        if len(set(self.stages)) < STAGES or self.stages[0] < 1:
            raise PlanError(
                f'backbone = "{backbone}": {STAGES} stages need at least {STAGES + 1} blocks, it '
                f"has {self.depth}"
            )
        self.score_predictor = nn.ModuleList(KeepPredictor(self.width) for _ in self.stages)
        self.patches = self.tokens - 1
        with torch.device("cpu"):
            self.units = self._table()
            self._outer = self.outer_macs()

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This class's state from a released one.

        Raises:
            WeightsError: listing every missing, unexpected or misshapen entry.
        """
        return translate(state, cls)

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate N images (N, 3, H, W) in [0,1]; all tokens are computed, dropped ones keep their
        state."""
        return self._run(images, decisions, self._predict_whole, self.block_everywhere)

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image (1, 3, H, W); dropped tokens are left out."""
        require_one(image)
        return self._run(image, decisions, self._predict_where, self._advance_where)

    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64: stem and head, each block by its tokens, each predictor by those in front of
        it."""
        kept = decisions.view(len(decisions), STAGES, self.patches).sum(2)
        first = torch.full_like(kept[:, :1], self.patches)
        before = torch.cat([first, kept], 1)
        starts = torch.tensor((0, *self.stages, self.depth))
        blocks = starts.diff().to(decisions.device, non_blocking=True)
        total = (self.block_macs(before + 1) * blocks).sum(1)
        per_token = self._predictor_macs()
        return self._outer + total + before[:, :STAGES].sum(1) * per_token

    def keep(self, stage: int, scores: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """The margins of a stage.

        Args:
            stage: from 0.
            scores: (N, P, 2) log-probabilities of keeping and dropping.
            left: (N, P) bool, the patch tokens that are left.

        Returns:
            ((N, P) margins, (N, P) logit margins); a token is wanted where they are above 0.
        """
        odds = scores[:, :, 0] - scores[:, :, 1]
        offset = math.log(self.threshold) - math.log1p(-self.threshold)
        return odds.sigmoid() - self.threshold, odds - offset

    def _run(
        self, images: Tensor, decisions: Tensor | None, predict: Predict, advance: Advance
    ) -> Output:
        """Blocks and predictors in turn."""
        x = self.embed(images)
        left = torch.ones((len(x), self.patches), dtype=torch.bool, device=x.device)
        policy: Tensor | None = None
        margins, logit_margins, taken = [], [], []
        for block in range(self.depth):
            if block in self.stages:
                stage = self.stages.index(block)
                x, scores = predict(stage, x, left)
                margin, logit_margin = self.keep(stage, scores, left)
                kept = self._decide(stage, margin, left, decisions)
                policy = self._policy(policy, scores, kept)
                left = kept
                margins.append(margin)
                logit_margins.append(logit_margin)
                taken.append(kept)
            x = advance(block, x, _with_class(left), policy)
        return Output(
            self.classify(x[:, 0]),
            torch.cat(margins, 1),
            torch.cat(logit_margins, 1),
            torch.cat(taken, 1),
        )

    def _decide(self, stage: int, margin: Tensor, left: Tensor, decisions: Tensor | None) -> Tensor:
        if decisions is not None:
            forced = decisions.view(len(decisions), STAGES, self.patches)[:, stage]
            return left & forced.to(left.device)
        wanted = left & (margin.detach() > 0)
        return self.admit(stage * self.patches, margin.detach(), wanted)

    def _policy(self, before: Tensor | None, scores: Tensor, kept: Tensor) -> Tensor | None:
        """(N, T) the straight-through mask behind a stage: each decision times those before it."""
        if self.evaluation.mask_grad != "ste" or not scores.requires_grad:
            return None
        chance = scores[:, :, 0].exp()
        mask = kept.to(chance.dtype) + chance - chance.detach()
        own = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        return own if before is None else own * before

    def _predict_whole(self, stage: int, x: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        x, read = self.fork(x, stage * self.patches)
        found: Tensor = self.score_predictor[stage](read[:, 1:], left)
        return x, found

    def _predict_where(self, stage: int, x: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """The same for one image, of the tokens that are left."""
        where = left[0].nonzero().squeeze(1)
        scores = x.new_full((1, self.patches, 2), math.log(0.5))
        if len(where):
            found = self.score_predictor[stage](x[:, 1:].index_select(1, where))
            scores = scores.index_copy(1, where, found.to(scores.dtype))
        return x, scores

    def _advance_where(self, block: int, x: Tensor, keep: Tensor, policy: Tensor | None) -> Tensor:
        return self.block_where(block, x, keep)

    def _predictor_macs(self) -> int:
        predictor = self.score_predictor[0]
        assert isinstance(predictor, KeepPredictor)
        return predictor.macs()

    def _table(self) -> Units:
        """The units, stage by stage."""
        height, width = self.grid
        total = STAGES * self.patches
        column = torch.ones(total, dtype=torch.float64)
        starts = (*self.stages, self.depth)
        costs = [
            (starts[stage + 1] - starts[stage]) * self.token_macs()
            + (self._predictor_macs() if stage + 1 < STAGES else 0)
            for stage in range(STAGES)
        ]
        return Units(
            name=tuple(
                f"stage{stage + 1}.y{at // width}x{at % width}"
                for stage in range(STAGES)
                for at in range(self.patches)
            ),
            kind=("token",) * total,
            owner=tuple(
                f"stage{stage + 1}" for stage in range(STAGES) for _ in range(self.patches)
            ),
            shape=((height, width),) * total,
            cost=torch.tensor(costs, dtype=torch.int64).repeat_interleave(self.patches),
            threshold=column * self.threshold,
            low=column * 0,
            high=column,
            strict=torch.ones(total, dtype=torch.bool),
            after=(torch.arange(total) - self.patches).clamp(min=-1),
        )


def _with_class(left: Tensor) -> Tensor:
    """(N, T) bool: the class token, and the patch tokens (N, P) that are left."""
    return torch.cat([torch.ones_like(left[:, :1]), left], 1)
