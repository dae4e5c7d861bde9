"""AutoEnergy: a fixed ensemble of attacks that fail for different reasons, with nothing to tune.

After AutoAttack (Croce and Hein, ICML 2020), with members chosen by measurement: a greedy cover of
attacks over targets, images and threats, on training images (docs/attacks/autoenergy.md). Of an
image's candidates the strongest counts: most executed MACs as saved, then the smallest distortion.

`autoenergy` runs every member at the protocol's full budget, as cells of their own, and combines
them once they are sealed (`bench.runs.ensemble`); its budget is their sum. `autoenergy-quick` has
the first two members alone. `autoenergy-split` is an attack like any other: every member has an
equal part of one budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attacks.best_saved import BestSaved
from attacks.genetic import Genetic
from attacks.gradient_attack import GradientAttack
from attacks.pry import Pry
from bench.api import Attack, BudgetSpent, Job, View
from bench.errors import PlanError
from bench.image import settle, to_float

_CLASSES: dict[str, type[Attack]] = {
    "pry": Pry,
    "genetic": Genetic,
}


@dataclass(frozen=True, kw_only=True)
class AutoEnergy(Attack):
    """The strongest of a fixed ensemble, image by image, each member at the full budget.

    Never runs itself: a plan that names it runs its members as cells, and combines what they
    sealed. Its budget is the sum of theirs, and printed. Members that do not support a target are
    left out there.

    On a defended target every member attacks the defended pipeline: end to end, through surrogates
    where a stage has no gradient, over draws where it is random, with a monitor's fallback as a
    unit to be opened. The last member is the transfer attack that a valid evaluation needs beside
    them: it knows the network without its defense (on a target without one it is left out).
    """

    members: ClassVar[tuple[tuple[str, Mapping[str, Any]], ...]] = (
        ("pry", {}),
        ("pry:concave", {"mask_grad": "ste"}),
        ("pry", {"loss": "power(exponent=-0.25, temperature=0.001, offset=0.0005)"}),
        ("genetic", {}),
        ("pry", {"knows": "network"}),
    )
    """(attack and preset, parameters) of each member, as a plan would name them.

    Ties are won by the earlier.
    """
    version: ClassVar[int] = 5
    randomised: ClassVar[bool] = True
    follows: ClassVar[str] = (
        "Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of "
        "diverse attacks, ICML 2020"
    )
    step_cost: ClassVar[str] = "its members'"

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        raise PlanError(
            "autoenergy is combined from the sealed cells of its members; run it in a plan"
        )


@dataclass(frozen=True, kw_only=True)
class AutoEnergyQuick(AutoEnergy):
    """The first two members of AutoEnergy, combined image by image, each at the full budget.

    At a quarter of the price of the ensemble of eight that came before it. On a defended target
    these two attack the whole pipeline; there is no transfer member.
    """

    members: ClassVar[tuple[tuple[str, Mapping[str, Any]], ...]] = (
        ("pry", {}),
        ("pry:concave", {"mask_grad": "ste"}),
    )
    version: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class AutoEnergySplit(Attack):
    """The same ensemble at the price of one attack, every member with an equal part of the budget.

    The best saved image is kept.

    Costs: a member's own; one forward of each part is kept to evaluate what it returns as it would
    be saved.
    """

    version: ClassVar[int] = 4
    randomised: ClassVar[bool] = True
    follows: ClassVar[str] = (
        "Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of "
        "diverse attacks, ICML 2020"
    )
    step_cost: ClassVar[str] = "its members'"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        rows = torch.arange(len(images), device=images.device)
        best = BestSaved(images)
        members = ensemble(view)
        part = int(view.left.max()) // len(members)
        for number, member in enumerate(members):
            part_view = view.within(part)
            share = Job(
                job.threat,
                max(part - 1, 0),
                job.ids,
                job.seed,
                job.fitted,
                _part_of(job, number, len(members)),
            )
            try:
                saved = settle(
                    member.perturb(part_view.within(part - 1), images, labels, share),
                    best.grid,
                    job.threat,
                )
                macs = view.price(part_view(to_float(saved).to(images), rows).decisions)
            except BudgetSpent:
                continue
            best.offer(rows, saved, macs)
        return best.image


def ensemble(view: View) -> list[Attack]:
    """The members that have something to say to a target with these units."""
    made = [member_attack(use, params) for use, params in AutoEnergy.members]
    return [member for member in made if not _looks_past(member)]


def member_attack(use: str, params: Mapping[str, Any]) -> Attack:
    """A member as it is named in `AutoEnergy.members`.

    Args:
        use: name of the attack, and its preset behind a colon.
        params: that differ from the preset.
    """
    name, _, preset = use.partition(":")
    kind = _CLASSES[name]
    return kind(**{**kind.presets.get(preset, {}), **params})


def _looks_past(member: Attack) -> bool:
    """Whether it ignores the defense; a part of one budget is too dear for that."""
    return isinstance(member, GradientAttack) and member.knows == "network"


def _part_of(job: Job, number: int, count: int) -> Any:
    return lambda done, total: job.progress(
        round(1000 * (number + done / max(total, 1))), 1000 * count
    )
