"""What a cell is: a target, its defense and an attack under one protocol, resolved and frozen.

These are the values that a plan comes to, that an executor is handed, and that keys are made of.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bench.contracts.threat import Threat
from bench.files.canonical import digest

SCHEMA = 1
"""Version of plans and of what enters a cell's key."""

HANDED_IN = "handed-in"
"""The distribution of what nobody provides: images that were handed in."""

Precision = Literal["float32", "tf32", "bf16"]
"""What the convolutions and products of an attack's gradient passes are computed in."""

FORWARD, BACKWARD = 1, 2
"""Forward-equivalents that a forward and a backward pass of one image cost."""

Who = tuple[str, str]
"""A target and its defense by label; "" for no defense."""


def defended_name(target: str, defense: str) -> str:
    """How a target with its defense is called everywhere: `TARGET + DEFENSE`, or `TARGET`."""
    return f"{target} + {defense}" if defense else target


def cell_label(target: str, defense: str, attack: str) -> str:
    """How a cell is called everywhere: `TARGET + DEFENSE / ATTACK`, or `TARGET / ATTACK`."""
    return f"{defended_name(target, defense)} / {attack}"


@dataclass(frozen=True)
class Component:
    """A target, defense or attack with everything resolved.

    Attributes:
        name: of the provider.
        distribution: who provides it.
        value: "module:Class"; "" for images that were handed in.
        label: as shown.
        params: all parameters, defaults included.
        version: declared by the class.
        preset: the named set of parameters it started from, "" for none.
        weights: of a target: the name in a manifest, or "random:SEED".
        digest: of the weights file, "" for random ones.
        control: whether it is a control, which is not ranked.
        fits: whether it learns something on the fit split: an attack once a cell, a defense
            before it is put around the target.
        series: the label without what a sweep put into it: cells of one series differ in the
            swept parameters alone.
        members: of an ensemble that is combined from other cells: those other attacks.
    """

    name: str
    distribution: str
    value: str
    label: str
    params: Mapping[str, Any]
    version: int = 1
    preset: str = ""
    weights: str = ""
    digest: str = ""
    control: bool = False
    fits: bool = False
    series: str = ""
    members: tuple[Component, ...] = ()

    @property
    def provider(self) -> str:
        """ "DISTRIBUTION/NAME", which the registry finds it by."""
        return f"{self.distribution}/{self.name}"

    def identity(self) -> dict[str, Any]:
        """What enters a cell's key: everything that numbers depend on, so not the label."""
        found: dict[str, Any] = {
            "name": self.provider,
            "params": dict(self.params),
            "version": self.version,
        }
        if self.weights:
            found["weights"] = self.digest or self.weights
        if self.members:
            found["members"] = [member.identity() for member in self.members]
        return found

    def document(self) -> dict[str, Any]:
        """The resolved component, as stored."""
        found = {
            key: dict(value) if isinstance(value, Mapping) else value
            for key, value in vars(self).items()
        }
        return found | {"members": [member.document() for member in self.members]}


@dataclass(frozen=True)
class Fit:
    """What attacks and defenses that learn one thing for all images learn it from.

    Attributes:
        split: of the data set; never the one that is scored.
        images: how many.
        budget: forward-equivalents an image.
    """

    split: str
    images: int
    budget: int


@dataclass(frozen=True)
class Protocol:
    """What makes rows comparable.

    Attributes:
        dataset: "NAME:SPLIT".
        images: how many.
        batch: image i always sits at place i mod batch of batch i div batch.
        threat: what a saved image may change.
        budget: forward-equivalents an image.
        seed: of random draws.
        audit: images of every cell whose execution is counted.
        fit: for attacks and defenses that fit; no part of what makes other cells comparable.
        precision: of an attack's gradient passes; decisions, scores and audits are in float32.
    """

    dataset: str
    images: int
    batch: int
    threat: Threat
    budget: int
    seed: int
    audit: int
    fit: Fit = Fit("train", 256, 30)
    precision: Precision = "float32"

    @property
    def terms(self) -> str:
        """What tells the boards of one run apart, in words."""
        reduced = f", gradients in {self.precision}" if self.precision != "float32" else ""
        return f"{self.threat}, budget {self.budget}, seed {self.seed}{reduced}"

    @property
    def fit_dataset(self) -> str:
        """The data set that is fitted on, "NAME:SPLIT"."""
        return f"{self.dataset.partition(':')[0]}:{self.fit.split}"

    def document(self) -> dict[str, Any]:
        """The protocol, as stored; the precision only where it is not float32."""
        found = {**vars(self), "threat": self.threat.document(), "fit": dict(vars(self.fit))}
        if self.precision == "float32":
            del found["precision"]
        return found

    def identity(self, *, fits: bool) -> dict[str, Any]:
        """What enters a cell's key: the terms of the fit only where there is one."""
        return {key: value for key, value in self.document().items() if fits or key != "fit"}

    def title(self, dataset: str) -> str:
        """Short and safe in a file name: `digits-m-test-psnr35-b150`."""
        threat = "".join(c if c.isalnum() else "" for c in str(self.threat).replace("/", "over"))
        seed = f"-s{self.seed}" if self.seed else ""
        return f"{dataset.replace(':', '-')}-{threat}-b{self.budget}{seed}"


@dataclass(frozen=True)
class Cell:
    """One (target, defense, attack) under one protocol.

    Attributes:
        protocol: the terms.
        target: what is attacked.
        attack: what attacks it.
        defense: what is put around the target, None for nothing.
        excluded: the reason why it is not to be run, "" if it is.
    """

    protocol: Protocol
    target: Component
    attack: Component
    defense: Component | None = None
    excluded: str = ""

    def key(self, subset: str, cost_model: str, fit_subset: str = "") -> str:
        """sha256 of the canonical, resolved content.

        Args:
            subset: digest of the image subset.
            cost_model: names the way of counting.
            fit_subset: digest of the images of the fit.
        """
        return digest(
            ({"fit_subset": fit_subset} if self.fits else {})
            | {
                "schema": SCHEMA,
                "cost": cost_model,
                "subset": subset,
                "protocol": self.protocol.identity(fits=self.fits),
                **self.identity(),
            }
        )

    def identity(self) -> dict[str, Any]:
        """What each of its components is, as far as numbers go."""
        return {
            "target": self.target.identity(),
            "defense": self.defense.identity() if self.defense else None,
            "attack": self.attack.identity(),
        }

    def document(self) -> dict[str, Any]:
        """The cell without its protocol, as stored in plan.json."""
        return {**self.components(), "excluded": self.excluded}

    def components(self) -> dict[str, Any]:
        """The documents of its target, its defense and its attack."""
        return {
            "target": self.target.document(),
            "defense": self.defense.document() if self.defense else None,
            "attack": self.attack.document(),
        }

    def inputs(self) -> dict[str, Any]:
        """The cell with its protocol, as stored in cell.json."""
        return {**self.document(), "protocol": self.protocol.document()}

    @property
    def parts(self) -> dict[str, Component]:
        """Its components by kind: "target", "defense" where there is one, "attack"."""
        found = {"target": self.target, "defense": self.defense, "attack": self.attack}
        return {kind: part for kind, part in found.items() if part is not None}

    @property
    def fits(self) -> bool:
        """Whether anything of it learns from the fit split."""
        return self.attack.fits or (self.defense is not None and self.defense.fits)

    @property
    def is_handed_in(self) -> bool:
        """Whether its images came from outside, rather than from an attack that ran here."""
        return self.attack.distribution == HANDED_IN

    @property
    def is_combined(self) -> bool:
        """Whether it is computed from other cells rather than run."""
        return bool(self.attack.members)

    @property
    def who(self) -> Who:
        """Its target and defense by label."""
        return self.target.label, self.defense.label if self.defense else ""

    @property
    def labels(self) -> tuple[str, str, str]:
        """What it is found by in another run: the labels of target, defense ("") and attack."""
        return (*self.who, self.attack.label)

    @property
    def defended(self) -> str:
        """Its target with its defense, in words."""
        return defended_name(*self.who)

    @property
    def label(self) -> str:
        """What it is called everywhere."""
        return cell_label(*self.labels)
