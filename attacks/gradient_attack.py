"""What an attack on gates knows of its target, and how it takes gradients through what has none:
options of every gradient attack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from attacks.penalties import Penalty, parse_penalty
from bench.api import Attack, Skip, Target, View


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """A gradient attack.

    By default it knows the defense and attacks the whole pipeline, end to end.

    Attributes:
        mask_grad: gradient of hard masks; "target" leaves the network's own.
        knows: "defense" sees the defended pipeline; "network" only the network inside, as whoever
            has not heard of the defense does. Scored is always the whole.
        surrogate: differentiate through stages that have no gradient by their surrogates (BPDA:
            Athalye et al., ICML 2018).
        draws: of a random target, over which every look and every gradient is averaged (EOT:
            Athalye et al., Synthesizing Robust Adversarial Examples, ICML 2018), each paid for;
            "auto" is as many of the target's own as leave 25 steps, at least 1.
        alarm: of a monitored target: "raise" counts the fallback as a unit to be opened like the
            gates; "avoid" opens gates while the monitor's score stays under its threshold (the
            joint loss), and keeps no image that sets it off.
        loss: what a missing unit costs: "hinge", or another penalty of `attacks.penalties` written
            as text, such as "log(temperature=0.01)".
        losses: values of `loss` that name another loss of the attack's own.
    """

    unkeyed_defaults: ClassVar[tuple[str, ...]] = ("loss",)
    losses: ClassVar[tuple[str, ...]] = ()

    mask_grad: Literal["target", "ste", "none"] = "target"
    knows: Literal["defense", "network"] = "defense"
    surrogate: bool = True
    draws: int | Literal["auto"] = "auto"
    alarm: Literal["raise", "avoid"] = "raise"
    loss: str = "hinge"

    def __post_init__(self) -> None:
        if self.loss not in self.losses:
            parse_penalty(self.loss)

    @property
    def penalty(self) -> Penalty:
        """The penalty that `loss` names.

        Raises:
            PlanError: it names a loss of the attack's own.
        """
        return parse_penalty(self.loss)

    def seen_by(self, view: View) -> View:
        """The view as this attack sees it."""
        return view.using(
            self.mask_grad,
            knows=self.knows,
            surrogate=self.surrogate,
            draws=self.draws,
            alarm=self.alarm,
        )

    def refusal(self, target: Target) -> Skip | None:
        """Why this knowledge means nothing on a target; None if it does."""
        if self.knows == "network" and target.undefended is target:
            return Skip("knows the network and not its defense, and this target has none")
        if self.alarm == "avoid" and not bool(target.units.alarm.any()):
            return Skip("avoids the alarm of a monitor, and this target has none")
        return None


def no_joint_loss(attack: GradientAttack) -> Skip | None:
    """The refusal of an attack whose loss has no term for a monitor's score."""
    return (
        Skip("its loss has no term that keeps a monitor quiet; alarm = raise")
        if attack.alarm == "avoid"
        else None
    )
