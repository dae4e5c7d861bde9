"""How our SkipNets are trained: a static network, gates by supervision, under a budget, by policy
gradient, against attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Moment, Target
from bench.errors import PlanError
from targets.recipes.stage import Metrics, TrainingStage, accuracy
from targets.recipes.static import StaticStage, family_name
from targets.skipnet import SkipNet


@dataclass(frozen=True, kw_only=True)
class _Stage(TrainingStage):
    """What the stages with gates share.

    Attributes:
        depth, gate, layout: as in `SkipNet`.
    """

    depth: int = 20
    gate: Literal["rnn", "ff1", "ff2"] = "rnn"
    layout: Literal["cifar", "imagenet"] = "cifar"

    target_name: ClassVar[str] = "skipnet"
    form: ClassVar[Literal["sp", "hrl"]] = "sp"

    def target_params(self) -> dict[str, Any]:
        """The parameters under which the trained network is used."""
        return {"depth": self.depth, "gate": self.gate, "form": self.form, "layout": self.layout}

    def build(self, classes: int) -> Target:
        """The network to train, with fresh weights."""
        return SkipNet(**self.target_params(), num_classes=classes)

    def weights_name(self, stage: str) -> str:
        """ "skipnet-20-budget", "skipnet-110-ff2-sp"."""
        gated = stage if self.gate == "rnn" or stage == "static" else f"{self.gate}-{stage}"
        return family_name("skipnet", self.depth, self.layout, gated)


@dataclass(frozen=True, kw_only=True)
class SupervisedStage(_Stage):
    """sp: gates learn by straight-through masks from cross-entropy alone, as in the paper; skipping
    is a by-product."""

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy through straight-through masks; there is no sparsity term, which is why
        little is saved."""
        output = target(images)
        opened = output.decisions.float().mean()
        return F.cross_entropy(output.logits.float(), labels), {
            "accuracy": accuracy(output.logits, labels),
            "open": opened,
        }


@dataclass(frozen=True, kw_only=True)
class BudgetStage(_Stage):
    """budget: SP+budget, the supervised stage with a penalty that brings the share of open gates to
    a target.

    loss = cross-entropy + w(t) (mean open - target_open)^2, where "mean open" is over the gates and
    images of the batch, with straight-through gradients, and w rises linearly to `penalty` over the
    first half of the training. The mean is the batch's, so an image may take more than its share
    where another takes less. Not in the paper: our own short way to a network that saves.

    Attributes:
        target_open: the share of gates to keep open.
        penalty: w at its height.
    """

    target_open: float = 0.6
    penalty: float = 8.0

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy and the ramped penalty."""
        output = target(images)
        values = output.margins + target.units.threshold.to(output.margins)
        opened = (values + (output.decisions.to(values.dtype) - values).detach()).mean()
        ramp = min(1.0, 2 * moment.done)
        loss = (
            F.cross_entropy(output.logits.float(), labels)
            + ramp * self.penalty * (opened - self.target_open).square()
        )
        return loss, {"accuracy": accuracy(output.logits, labels), "open": opened.detach()}


@dataclass(frozen=True, kw_only=True)
class HybridStage(_Stage):
    """hrl: hybrid reinforcement learning, gates sampled and rewarded for skipping, on top of a
    supervised stage.

    Action a_i is drawn with probability G_i. Each gate earns r_i = (1 - a_i) alpha / U, the end
    earns -CE, the return of gate i is R_i = sum_{j >= i} r_j - CE (discount 1), and

        loss = CE - rl_weight mean_images sum_i (R_i - b_i) log pi(a_i),

    with R detached throughout: cross-entropy reaches the weights by its own term only (Wang et al.,
    ECCV 2018).

    It differs from the released code in six ways. Batch-normalization statistics are frozen, since
    sampled gates disturb them. The policy term is a mean over images, not a sum (the code's 0.01 at
    batch 128 is 1.28 here). Each image is run `draws` times and the mean return of its other runs
    is the baseline b_i (of the whole batch if `draws` is 1), where the code has none: the same
    gradient in expectation, with less noise. The class prediction is no sampled action. The
    optimiser is AdamW for some 300 steps instead of SGD for 10,000. And it starts from the budget
    stage, where the paper starts from `sp` (that is --from skipnet-20-sp@digits-m): a gate that is
    sure of itself is hardly ever sampled the other way, and in a trial 96 % of the gates stood open
    halfway through `sp`. For the same reason the gates' logits can be divided by a `temperature`
    before the first step, the released code's `hotter`.

    The training is short on purpose: in trials of four to eight epochs all but one or two gates
    settled on the same decision for all images.

    Attributes:
        alpha: what skipping all blocks earns, in nats of cross-entropy.
        rl_weight: weight of the policy term.
        draws: sampled runs of each image in a step.
        temperature: above 1 makes the first samples more even; 1 leaves the gates as they are.
    """

    epochs: int = 2
    batch: int = 32
    lr: float = 1e-4
    alpha: float = 0.6
    rl_weight: float = 1.0
    draws: int = 4
    temperature: float = 1.0

    start: ClassVar[str] = "budget"
    form: ClassVar[Literal["sp", "hrl"]] = "hrl"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1:
            raise PlanError(f"draws = {self.draws}: each image is run at least once")
        if not self.temperature > 0:
            raise PlanError(f"temperature = {self.temperature}: must be above 0")

    def begin(self, target: Target) -> None:
        """Divide the gates' logits by the temperature: no decision changes, but sampling tries both
        sides."""
        with torch.no_grad():
            for name, parameter in target.named_parameters():
                if name.startswith("control.proj.") or ".linear_layer." in name:
                    parameter.div_(self.temperature)

    def begin_epoch(self, target: Target, history: Sequence[Mapping[str, float]]) -> None:
        """Evaluation mode throughout: frozen statistics, and blocks run only for the images that
        drew them."""
        target.eval()

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy and the policy gradient of sampled gates."""
        assert isinstance(target, SkipNet)
        count, units = len(images), len(target.units)
        noise = torch.rand((units, self.draws * count), generator=moment.generator).to(
            images.device
        )
        labels = labels.repeat(self.draws)
        output = target.walk(
            images.repeat(self.draws, 1, 1, 1),
            lambda unit, value: noise[unit] < value.detach(),
            straight_through=False,
        )
        error = F.cross_entropy(output.logits.float(), labels, reduction="none")
        advantage = self.advantage(output.decisions, error.detach())
        log_policy = F.logsigmoid(
            torch.where(output.decisions, output.logit_margins, -output.logit_margins)
        )
        policy = -(advantage * log_policy).sum(1).mean()
        shown = {
            "accuracy": accuracy(output.logits, labels),
            "open": output.decisions.float().mean(),
        }
        return error.mean() + self.rl_weight * policy, shown

    def advantage(self, actions: Tensor, error: Tensor) -> Tensor:
        """(M, U) returns less their baseline.

        Args:
            actions: (M, U) bool, M = draws x images, one draw of all images after the other.
            error: (M,) cross-entropy of each run.
        """
        reward = (~actions).to(error.dtype) * (self.alpha / actions.shape[1])
        returns = reward.flip(1).cumsum(1).flip(1) - error[:, None]
        by_draw = returns.view(self.draws, -1, actions.shape[1])
        if self.draws == 1:
            return (by_draw - by_draw.mean(1, keepdim=True)).view_as(returns)
        others = (by_draw.sum(0, keepdim=True) - by_draw) / (self.draws - 1)
        return (by_draw - others).view_as(returns)


@dataclass(frozen=True, kw_only=True)
class AdversarialStage(BudgetStage):
    """adversarial: energy-adversarial training, a defense; the network learns on images that were
    made to open its gates.

    Every image is attacked first, `steps` normalized gradient steps inside a PSNR ball (the inner
    problem of adversarial training, with the energy loss for classification's) on what closed gates
    are missing, gap = relu(o - logit margin): the gaps themselves with o = 0.03 (the hinge), or the
    sum of log(1 + gap / temperature) with o = temperature / 2, by which our strongest attack
    descends (`attacks.pry`). Then, on both halves,

        loss = CE(clean) + CE(attacked) + w(t) (mean open(clean) - target_open)^2
               + hold mean_images relu(open(attacked) - open(clean)),

    where open is a share of gates with straight-through gradients and the last term holds nothing
    against an attack that closes gates. After the adversarial training of DeepSloth (Hong et al.,
    ICLR 2021, section 5), which mixes the attack's loss into PGD training for multi-exit networks;
    that paper found it to help a little. Attacked images are made in evaluation mode.

    Attributes:
        psnr: dB, the floor of the training ball.
        steps: of the inner attack, each twice the radius divided by steps.
        temperature: of the inner attack's loss, in logits; 0 is the hinge, the default because its
            network holds better: `pry` (35 dB, budget 60, 100 test images of digits-m) wins back
            20.1 % of it, 27.1 % of one trained with 0.001 (in float32 instead of bfloat16, else
            alike; with 6 steps and hold = 24, 26.8 %), 31.8 % of the one that both start from.
        hold: weight of the gates that an attack opens.
    """

    epochs: int = 8
    lr: float = 1e-3
    psnr: float = 35.0
    steps: int = 3
    temperature: float = 0.0
    hold: float = 8.0

    start: ClassVar[str] = "budget"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise PlanError(f"steps = {self.steps}: at least 1")
        if self.temperature < 0:
            raise PlanError(f"temperature = {self.temperature}: at least 0")

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy on both halves, the ramped penalty on the clean one, and what the attack
        opened."""
        attacked = self.attack(target, images, moment)
        count = len(images)
        output = target(torch.cat([images, attacked]))
        values = output.margins + target.units.threshold.to(output.margins)
        opened = (values + (output.decisions.to(values.dtype) - values).detach()).mean(1)
        error = F.cross_entropy(output.logits.float(), labels.repeat(2))
        ramp = min(1.0, 2 * moment.done)
        kept = (opened[:count].mean() - self.target_open).square()
        lost = torch.relu(opened[count:] - opened[:count]).mean()
        shown = {
            "accuracy": accuracy(output.logits[:count], labels),
            "open": opened[:count].detach().mean(),
            "attacked": opened[count:].detach().mean(),
        }
        return 2 * error + ramp * self.penalty * kept + self.hold * lost, shown

    def attack(self, target: Target, images: Tensor, moment: Moment) -> Tensor:
        """(N, C, H, W) the images after the inner attack; the target is left in training mode, its
        weights untouched."""
        radius = (images[0].numel() * 10 ** (-self.psnr / 10)) ** 0.5
        noise = torch.randn(images.shape, generator=moment.generator).to(images)
        moved = (
            noise
            * (radius * 0.5 / noise.flatten(1).norm(dim=1).clamp(min=1e-12))[:, None, None, None]
        )
        target.eval()
        for _ in range(self.steps):
            inputs = (images + moved).clamp(0, 1).detach().requires_grad_()
            offset = self.temperature / 2 if self.temperature else 0.03
            gaps = torch.relu(offset - target(inputs).logit_margins.float())
            missing = torch.log1p(gaps / self.temperature) if self.temperature else gaps
            (grad,) = torch.autograd.grad(missing.sum(), inputs)
            size = grad.flatten(1).norm(dim=1).clamp(min=1e-12)
            moved = (
                inputs.detach()
                - images
                - grad * (2 * radius / self.steps / size)[:, None, None, None]
            )
            far = moved.flatten(1).norm(dim=1).clamp(min=radius)
            moved = moved * (radius / far)[:, None, None, None]
        target.train()
        attacked: Tensor = (images + moved).clamp(0, 1).detach()
        return attacked


class SkipNetRecipe:
    """SkipNet in stages: static (plain ResNet), sp (supervised), budget (SP with a penalty), hrl
    (policy gradient), adversarial (trained on attacks).

    `sp` and `budget` start from random weights; `hrl` and `adversarial` start from `budget`, or
    from the weights named by --from. Each stage takes five to ten minutes on a core for digits-m at
    depth 20, `adversarial` (energy-adversarial training) three times that.
    """

    stages: ClassVar[Mapping[str, type[TrainingStage]]] = {
        "static": StaticStage,
        "sp": SupervisedStage,
        "budget": BudgetStage,
        "hrl": HybridStage,
        "adversarial": AdversarialStage,
    }
