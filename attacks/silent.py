"""A silent attack on networks whose tokens halt: it asks for work that cannot reach the answer.

Once the class token has halted, the answer is fixed; whatever patch tokens still compute is read by
nobody. The attack delays exactly that work:

    minimise  sum_{j late} lambda_j phi(max(o - m_j, 0)) + hold sum_{j class} max(o - s_j m_j, 0),

where the units j of patch tokens are late in the blocks behind the class token's last on the clean
image, and s_j = 1 for the units of the class token that run there and -1 for the others. An iterate
counts only if the class token runs the same blocks as on the clean image and the prediction is the
clean one; all else is thrown away, so that whoever watches answers sees nothing. Iterates are
priced by all their MACs: patch tokens that run on in front of the class token's last block, which
the loss does not ask for, count as well.

The observation is inferred from the published rule of A-ViT (Yin et al., CVPR 2022), in which the
head reads the class token alone; no published attack uses it. A network that stops where its class
token does (`avit` with stop = "class") has no work behind the answer; what is won there all the
same is of the second kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.best_image import UNWANTED, BestImage, Iterate
from attacks.box import Clamp, Point, reach, with_rounding
from attacks.descent import Descent, Direction, StepRule
from attacks.gradient_attack import GradientAttack, no_joint_loss
from attacks.optimizer import OPTIMIZERS
from attacks.penalties import Penalty
from bench.api import BudgetSpent, Job, Output, Skip, Target, Threat, Units, View

CLASS_TOKEN = "class token"
"""The kind of the units whose token the answer is read from."""


@dataclass(frozen=True, kw_only=True)
class Silent(GradientAttack):
    """Delays patch tokens once the class token has halted, so that the answer stays what it was.

    Costs: 1 forward for the clean image; per step 1 forward and 1 backward, and no backward where
    nothing late is missing. An image whose class token never halts early is left alone.

    Attributes:
        steps: evaluations at most, or "budget".
        lr: of the first step, as a share of the largest change the threat admits (root mean
            square); it falls as a cosine.
        offset: o, how far past its threshold a unit is pushed, in units of the margin.
        hold: weight of the class token's own units.
        psnr: under threat "none", the floor whose reach sets the steps.
        rounding: as in GradAuto.
        mask_grad: see `attacks.gradient_attack.GradientAttack`.
        knows: see `attacks.gradient_attack.GradientAttack`.
        surrogate: see `attacks.gradient_attack.GradientAttack`.
        draws: see `attacks.gradient_attack.GradientAttack`.
        loss: the penalty phi of late units, see `attacks.penalties`.
    """

    unkeyed_defaults: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    follows: ClassVar[str] = "our own; after the rule of Yin et al., A-ViT, CVPR 2022"
    step_cost: ClassVar[str] = "3 (forward and one backward); 1 once nothing late is missing"
    needs: ClassVar[str] = "units of a class token, whose halting fixes the answer"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "steps": (1, None),
        "lr": (0, None),
        "offset": (0, None),
        "hold": (0, None),
        "psnr": (1, 120),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    steps: int | Literal["budget"] = "budget"
    lr: float = 0.3
    offset: float = 0.02
    hold: float = 1.0
    psnr: float = 35.0
    rounding: Literal["after", "inside"] = "inside"

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """Needs units of a class token, and an answer that every evaluation gives."""
        if CLASS_TOKEN not in target.units.kind:
            return Skip(
                "it delays what is computed behind the answer, and this target has no class token "
                "that halts"
            )
        if target.draws > 1:
            return Skip("the answer of a random target is another one in every draw")
        return self.refusal(target) or no_joint_loss(self)

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        view = self.seen_by(view)
        try:
            clean = view(images, torch.arange(len(images), device=images.device))
        except BudgetSpent:
            return images.clone()
        answer = CleanAnswer.of(view.units, clean, labels)
        best = BestSilent(view, images, job.threat, "best", answer)
        sharp = job.threat.norm in ("linf", "patch")
        length = self.lr * reach(job.threat, images[0].numel(), self.psnr)
        descent = Descent(
            view=view,
            job=job,
            clean=images,
            box=with_rounding(Clamp(), self.rounding),
            optimizer=OPTIMIZERS["sign" if sharp else "normalised"](length),
            best=best,
            steps=self.steps,
            cost=3,
            schedule="cosine",
            stop_at_ceiling=True,
        )
        descent.run(LateWork(view, answer, self.penalty, self.offset, self.hold))
        return best.finish().clamp(0, 1)


@dataclass(frozen=True)
class CleanAnswer:
    """How clean images are answered, and which work lies behind that.

    Attributes:
        labels: (N,) the clean predictions.
        heads: (H,) int64, the units of the class token.
        ran: (N, H) bool, which of them run.
        late: (N, U) bool, the units of patch tokens in blocks that the class token does not run.
    """

    labels: Tensor
    heads: Tensor
    ran: Tensor
    late: Tensor

    @classmethod
    def of(cls, units: Units, clean: Output, labels: Tensor) -> CleanAnswer:
        """From the output on clean images.

        A unit of the class token and the units behind it, up to its next one, are one block.
        """
        is_head = torch.tensor([kind == CLASS_TOKEN for kind in units.kind])
        heads = is_head.nonzero().squeeze(1).to(clean.decisions.device)
        block = (is_head.to(torch.int64).cumsum(0) - 1).to(heads.device)
        ran = clean.decisions[:, heads]
        patches = (~is_head).to(heads.device) & (block >= 0)
        late = ~ran[:, block.clamp(min=0)] & patches
        return cls(labels, heads, ran, late)

    def is_kept(self, output: Output, rows: Tensor) -> Tensor:
        """(M,) bool: images `rows` are answered as they were, by as many blocks of the class
        token."""
        same = (output.decisions[:, self.heads] == self.ran[rows]).all(1)
        return same & (output.logits.argmax(1) == self.labels[rows])


class BestSilent(BestImage):
    """The image kept, of those whose answer is the clean one.

    Args:
        view, clean, threat, rule: as in `BestImage`.
        answer: of the clean images.
    """

    def __init__(
        self, view: View, clean: Tensor, threat: Threat, rule: Iterate, answer: CleanAnswer
    ) -> None:
        super().__init__(view, clean, threat, rule, verify=True)
        self.answer = answer

    def price(self, output: Output, rows: Tensor) -> Tensor:
        """(M,) executed MACs, `UNWANTED` where the answer is another one."""
        macs = super().price(output, rows)
        unwanted = torch.full_like(macs, UNWANTED)
        return torch.where(self.answer.is_kept(output, rows), macs, unwanted)


class LateWork(StepRule):
    """The gradient of what is late and missing, and of what holds the class token to its path."""

    def __init__(
        self, view: View, answer: CleanAnswer, penalty: Penalty, offset: float, hold: float
    ) -> None:
        self.view, self.answer, self.penalty = view, answer, penalty
        self.offset, self.hold = offset, hold
        cost = view.units.cost.to(torch.float64)
        self.weight = (cost / cost.sum().clamp(min=1)).to(torch.float32)

    def evaluate(self, point: Point, rows: Tensor, share: Tensor) -> Direction:
        output, (gradient,) = self.view.gradients(
            lambda seen: [self.loss(seen, rows)], point.image, rows
        )
        pulled = point.pull(torch.nan_to_num(gradient, 0.0, 0.0, 0.0))
        return Direction(output, self.loss(output, rows), pulled)

    def loss(self, output: Output, rows: Tensor) -> Tensor:
        """(M,) of an evaluation of images `rows`; 0 where nothing late is missing."""
        weight = self.weight.to(output.margins, non_blocking=True)
        gap = torch.relu(self.offset - output.margins)
        missing = (self.penalty(gap) * weight * self.answer.late[rows]).sum(1)
        sign = torch.where(self.answer.ran[rows], 1.0, -1.0).to(output.margins)
        heads = self.answer.heads
        slipping = torch.relu(self.offset - sign * output.margins[:, heads])
        held = (slipping * weight[heads]).sum(1)
        return torch.where(missing > 0, missing + self.hold * held, torch.zeros_like(missing))
