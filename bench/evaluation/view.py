"""How an attack reaches a target: every use is counted per image and limited to its access."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from bench.contracts.attack import Losses
from bench.contracts.cell import Precision
from bench.contracts.target import EvaluationChanges, ForkEdit, Output, Target
from bench.contracts.units import Units
from bench.errors import ContractBroken
from bench.evaluation.cut import CutOutput
from bench.evaluation.draws import affordable_draws
from bench.evaluation.ledger import Ledger
from bench.evaluation.meter import ForwardMeter
from bench.evaluation.outputs import check_marginal_macs, own_copy, plain_macs, plain_output
from bench.evaluation.passes import gradient_pass, reduced, widened
from bench.evaluation.plain import plain
from bench.evaluation.seeds import seeded, typical

Knows = Literal["defense", "network"]


@dataclass(frozen=True)
class TargetView:
    """The concrete `bench.api.View`; attacks are handed it as a `SealedView`.

    Args:
        whole: the target, defended or not, in eval mode, its weights frozen.
        ledger: of the batch; views made by `using` share it.
        access: "gates" or "macs".
        mask_grad: see `bench.api.View.using`.
        knows: see `bench.api.View.using`.
        surrogate: see `bench.api.View.using`.
        alarm: see `bench.api.View.using`.
        each: draws of a random target in every evaluation, all paid for.
        allowed: (N,) how much each image may have used in all, where `within` said less than the
            budget.
        precision: of gradient passes; evaluations without gradients are in float32.
        meter: that keeps the weights of `whole` from the attack; None where nobody does.
    """

    whole: Target
    ledger: Ledger
    access: Literal["gates", "macs"] = "gates"
    mask_grad: Literal["target", "ste", "none"] = "target"
    knows: Knows = "defense"
    surrogate: bool = True
    alarm: Literal["raise", "avoid"] = "raise"
    each: int = 1
    allowed: Tensor | None = None
    precision: Precision = "float32"
    meter: ForwardMeter | None = None

    @classmethod
    def of(
        cls,
        target: Target,
        clean: Tensor,
        budget: int,
        access: Literal["gates", "macs"] = "gates",
        seeds: Tensor | None = None,
        precision: Precision = "float32",
        meter: ForwardMeter | None = None,
    ) -> TargetView:
        """A view for a batch of images.

        Args:
            target: in eval mode, its weights frozen.
            clean: (N, C, H, W) in [0,1].
            budget: forward-equivalents for each image.
            access: of the attack.
            seeds: (N,) int64, for random targets.
            precision: of gradient passes.
            meter: of the target.
        """
        ledger = Ledger(clean, budget, seeds)
        return cls(target, ledger, access, precision=precision, meter=meter).using()

    @property
    def target(self) -> Target:
        """What is evaluated: the defended target, or the network inside."""
        return self.whole if self.knows == "defense" else self.whole.undefended

    @property
    def units(self) -> Units:
        return self.target.units

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.target.image_shape

    @property
    def classes(self) -> int:
        return self.target.classes

    @property
    def floor(self) -> int:
        with self._evaluating():
            return self.target.floor

    @property
    def ceiling(self) -> int:
        with self._evaluating():
            return self.target.ceiling

    @property
    def draws(self) -> int:
        return self.target.draws

    @property
    def left(self) -> Tensor:
        return (
            (self.ledger.budget if self.allowed is None else self.allowed) - self.ledger.used
        ) // self.each

    def using(
        self,
        mask_grad: Literal["target", "ste", "none"] = "target",
        *,
        knows: Knows = "defense",
        surrogate: bool = True,
        draws: int | Literal["auto"] = "auto",
        alarm: Literal["raise", "avoid"] = "raise",
    ) -> TargetView:
        own = (self.whole if knows == "defense" else self.whole.undefended).draws
        each = 1
        if own > 1:
            each = affordable_draws(own, self.ledger.budget) if draws == "auto" else max(1, draws)
        return replace(
            self, mask_grad=mask_grad, knows=knows, surrogate=surrogate, alarm=alarm, each=each
        )

    def within(self, budget: int) -> TargetView:
        allowed = (self.ledger.used + budget * self.each).clamp(max=self.ledger.budget)
        return replace(
            self, allowed=allowed if self.allowed is None else torch.minimum(allowed, self.allowed)
        )

    def __call__(self, images: Tensor, rows: Tensor) -> Output:
        self._need_gates("outputs")
        images, rows = self._checked_inputs(images, rows)
        with self._evaluating(), torch.no_grad():
            return self._noted(self._draws(images, rows), images, rows)

    def macs(self, images: Tensor, rows: Tensor) -> Tensor:
        images, rows = self._checked_inputs(images, rows)
        with self._evaluating(), torch.no_grad():
            draws = self._draws(images, rows)
            self._noted(draws, images, rows)
            return torch.stack([self._macs(draw.decisions) for draw in draws]).sum(0) // len(draws)

    def price(self, decisions: Tensor) -> Tensor:
        self._need_gates("decisions")
        decisions = plain(decisions, "decisions")
        with self._evaluating():
            macs = self._macs(decisions)
        if self.alarm == "raise":
            return macs
        alarm = self.units.alarm.to(decisions.device)
        return macs.masked_fill((decisions & alarm).any(1), 0)

    def marginal_macs(self, decisions: Tensor) -> Tensor:
        self._need_gates("decisions")
        decisions = plain(decisions, "decisions")
        with self._evaluating():
            return check_marginal_macs(self.target.marginal_macs(decisions), decisions)

    def gradients(
        self, losses: Losses, images: Tensor, rows: Tensor, at_fork: ForkEdit | None = None
    ) -> tuple[Output, tuple[Tensor, ...]]:
        self._need_gates("gradients")
        images, rows = self._checked_inputs(images, rows)
        inputs = images.detach().requires_grad_()
        passes: list[bool] = []
        inputs.register_hook(lambda grad: self.ledger.note_gradient(passes))
        if at_fork is not None and self.meter is not None:
            at_fork = self.meter.called(at_fork)
        changes: EvaluationChanges = {"surrogate": self.surrogate, "at_fork": at_fork}
        if self.mask_grad != "target":
            changes["mask_grad"] = self.mask_grad
        sums: list[Tensor] = []
        outputs: list[Output] = []
        with (
            self._evaluating(),
            gradient_pass(self.precision),
            self.target.evaluating(**changes),
        ):
            for _ in range(self.each):
                with torch.enable_grad():
                    with reduced(self.precision, inputs.device):
                        (output,) = self._draws(inputs, rows, once=True)
                    output = widened(output)
                    outputs.append(own_copy(output))
                    cut = CutOutput(output)
                    with self._calling():
                        values = [plain(loss, "a loss") for loss in losses(cut.leaves)]
                early = len(passes)
                asking, masks, asked = self._asked(values, rows)
                if len(outputs) == self.each:
                    seen = self._noted(outputs, images, rows, exact=self.precision == "float32")
                grads = self._backward(values, cut, inputs, asking, masks, asked)
                if early or len(passes) > len(values):
                    raise ContractBroken(
                        "a loss or a fork edit took gradients of its own, which are not paid for",
                        hint="return the losses; view.gradients takes one gradient of each",
                    )
                passes.clear()
                sums = (
                    grads
                    if not sums
                    else [total + grad for total, grad in zip(sums, grads, strict=True)]
                )
        if self.each > 1:
            sums = [total / self.each for total in sums]
        return seen, tuple(sums)

    def _evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Around what needs the network's weights."""
        return contextlib.nullcontext() if self.meter is None else self.meter.evaluating()

    def _calling(self) -> contextlib.AbstractContextManager[None]:
        """Around code of the attack inside of an evaluation."""
        return contextlib.nullcontext() if self.meter is None else self.meter.calling()

    def _asked(
        self, values: list[Tensor], rows: Tensor
    ) -> tuple[list[int], list[Tensor], list[bool | None]]:
        """Which losses have a gradient, in which rows, and whether any row asks and can pay."""
        for index, loss in enumerate(values):
            if loss.shape != rows.shape:
                raise ContractBroken(
                    f"loss {index} has shape {tuple(loss.shape)}, expected one number a row: "
                    f"{tuple(rows.shape)}",
                    hint="return one loss a row, without a sum or mean over the rows",
                )
        asking = [i for i, loss in enumerate(values) if loss.requires_grad]
        masks = [values[i].detach() != 0 for i in asking]
        return asking, masks, self.ledger.charge_backward(rows, masks, self.allowed)

    def _backward(
        self,
        values: list[Tensor],
        cut: CutOutput,
        inputs: Tensor,
        asking: list[int],
        masks: list[Tensor],
        asked: list[bool | None],
    ) -> list[Tensor]:
        """The gradient of each loss; rows at a loss of 0 are not charged, and get none."""
        found = [torch.zeros_like(inputs) for _ in values]
        for place, index in enumerate(asking):
            if asked[place] is None:
                raise self.ledger.spent()
            if not asked[place]:
                continue
            self.ledger.pay(place)
            with self.target.evaluating(loss=index):
                # A slope at 0 was paid for by no row.
                total = (values[index] * masks[place].to(values[index].dtype)).sum()
                more = index != asking[-1]
                grad = cut.gradient(total, inputs, self.ledger.paying(), keep=more)
            found[index] = found[index] if grad is None else grad
        return found

    def _draws(self, images: Tensor, rows: Tensor, *, once: bool = False) -> list[Output]:
        """The target's output for each draw; one draw of a target that is not random."""
        found = []
        for _ in range(1 if once else self.each):
            self.ledger.charge(rows, self.allowed)
            self.ledger.looks += 1
            with self._seeded(rows):
                output = plain_output(self.target(images), self.target, len(images))
            found.append(output if once else own_copy(output))
            if not once:
                self.ledger.confirm()
        return found

    def _seeded(self, rows: Tensor) -> contextlib.AbstractContextManager[None]:
        """Let a random target draw from the seeds of these images, anew at every look."""
        if self.target.draws == 1:
            return contextlib.nullcontext()
        return seeded(self.target, self.ledger.seeds[rows.cpu()], self.ledger.looks)

    def _noted(
        self, draws: list[Output], images: Tensor, rows: Tensor, *, exact: bool = True
    ) -> Output:
        """What the attack sees of these draws, noted in the ledger.

        An evaluation of the network inside says nothing of the defended target and is not traced;
        nor is one in less than float32, which may decide otherwise.
        """
        seen = (
            draws[0]
            if len(draws) == 1
            else typical(draws, [self._macs(draw.decisions) for draw in draws])
        )
        self.ledger.watch(rows, seen.decisions)
        if exact and self.target is self.whole:
            self.ledger.record(rows, images, self._macs(seen.decisions))
        return seen

    def _checked_inputs(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images and rows as plain tensors; the ledger checks the range of the rows.

        Raises:
            ContractBroken: the images are none of the target's, or `rows` is not int64 with one
                row an image.
        """
        images = plain(images, "the images of an evaluation").detach()
        clean = self.ledger.clean
        if images.dtype != clean.dtype or images.shape[1:] != clean.shape[1:]:
            raise ContractBroken(
                f"the images of an evaluation are {images.dtype} {tuple(images.shape)}, expected "
                f"{clean.dtype} {('M', *clean.shape[1:])}".replace("'M'", "M"),
                hint="evaluate images of the shape and type that were handed over",
            )
        found = type(rows).__name__
        if isinstance(rows, Tensor):
            rows = plain(rows, "rows")
            if rows.dtype == torch.int64 and rows.shape == (len(images),):
                return images, rows
            found = f"{rows.dtype} {tuple(rows.shape)}"
        raise ContractBroken(
            "rows name the image that each evaluated image belongs to: "
            f"torch.int64 ({len(images)},), got {found}",
            hint="torch.arange(len(images)) where each image is evaluated once",
        )

    def _macs(self, decisions: Tensor) -> Tensor:
        return plain_macs(self.target, decisions).to(decisions.device)

    def _need_gates(self, what: str) -> None:
        if self.access != "gates":
            raise ContractBroken(
                f'an attack with access "macs" asked for {what}; it may only call view.macs',
                hint='call view.macs, or say access = "gates" in the class',
            )
