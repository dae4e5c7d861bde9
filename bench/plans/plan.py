"""What a plan comes to: components, protocols, cells and boards, resolved and frozen."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.contracts.threat import Threat, parse_threat
from bench.files.canonical import digest

SCHEMA = 1
"""Version of plans and of what enters a cell's key."""


@dataclass(frozen=True)
class Component:
    """A target, defense or attack with everything resolved.

    Attributes:
        name: of the provider.
        distribution: who provides it.
        value: "module:Class".
        label: as shown.
        params: all parameters, defaults included.
        version: declared by the class.
        preset: the named set of parameters it started from, "" for none.
        weights: of a target: the name in a manifest, or "random:SEED".
        digest: of the weights file, "" for random ones.
        control: whether it is a control, which has no rank.
        fits: whether it learns something on the fit split: an attack once a cell, a defense before
            it is put around the target.
        series: the label without what a sweep put into it: cells of one series differ in the swept
            parameters alone.
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

    def identity(self) -> dict[str, Any]:
        """What enters a cell's key: everything but the label."""
        found = {
            "name": f"{self.distribution}/{self.name}",
            "params": dict(self.params),
            "version": self.version,
        }
        found |= {"weights": self.digest or self.weights} if self.weights else {}
        return found | (
            {"members": [member.identity() for member in self.members]} if self.members else {}
        )

    def document(self) -> dict[str, Any]:
        """The resolved component, as stored."""
        found = {
            key: dict(value) if isinstance(value, Mapping) else value
            for key, value in vars(self).items()
        }
        return found | {"members": [member.document() for member in self.members]}


@dataclass(frozen=True)
class Fit:
    """What attacks and defenses that fit first learn from, and at what price.

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
        fit: for attacks that fit; no part of what makes other cells comparable.
    """

    dataset: str
    images: int
    batch: int
    threat: Threat
    budget: int
    seed: int
    audit: int
    fit: Fit = Fit("train", 256, 30)

    def document(self) -> dict[str, Any]:
        return {**vars(self), "threat": self.threat.document(), "fit": dict(vars(self.fit))}

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

    `excluded` is the reason why it is not to be run, "" if it is.
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
                "target": self.target.identity(),
                "defense": self.defense.identity() if self.defense else None,
                "attack": self.attack.identity(),
            }
        )

    @property
    def fits(self) -> bool:
        """Whether anything of it learns from the fit split."""
        return self.attack.fits or (self.defense is not None and self.defense.fits)

    @property
    def label(self) -> str:
        return cell_label(
            self.target.label, self.defense.label if self.defense else "", self.attack.label
        )


def defended_name(target: str, defense: str) -> str:
    """How a target with its defense is called everywhere: `TARGET + DEFENSE`.

    Args:
        target: its label.
        defense: the label of its defense, "" for none.
    """
    return f"{target} + {defense}" if defense else target


def cell_label(target: str, defense: str, attack: str) -> str:
    """How a cell is called everywhere: `TARGET + DEFENSE / ATTACK`."""
    return f"{defended_name(target, defense)} / {attack}"


def component_of(document: Mapping[str, Any]) -> Component:
    """A component from what `Component.document` stored."""
    return Component(
        **{**document, "members": tuple(component_of(member) for member in document["members"])}
    )


def cell_of(entry: Mapping[str, Any]) -> Cell:
    """A cell from its entry in plan.json, with its protocol."""
    protocol = entry["protocol"]
    terms = {**protocol, "threat": parse_threat(protocol["threat"]), "fit": Fit(**protocol["fit"])}
    return Cell(
        Protocol(**terms),
        component_of(entry["target"]),
        component_of(entry["attack"]),
        component_of(entry["defense"]) if entry["defense"] else None,
        entry["excluded"],
    )


def entry_label(entry: Mapping[str, Any]) -> str:
    """The label of a cell as it stands in plan.json."""
    return cell_label(
        entry["target"]["label"],
        entry["defense"]["label"] if entry["defense"] else "",
        entry["attack"]["label"],
    )


@dataclass(frozen=True)
class RunOptions:
    """How to run, which never changes a number.

    Device, images a shard, seconds a shard, workers, threads a worker.
    """

    device: str = "auto"
    shard: int = 64
    deadline: float = 600
    workers: int | Literal["auto"] = "auto"
    threads: int = 1
    executor: str = "local"


@dataclass(frozen=True)
class Plan:
    """A resolved plan: cells grouped into boards, in the order of the file."""

    source: str
    boards: tuple[tuple[Cell, ...], ...]
    options: RunOptions
    pages: Mapping[str, Any] = field(default_factory=dict)
    """What else the report shows: "paper", the published table to stand beside; "audits"."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(itertools.chain.from_iterable(self.boards))

    def document(self) -> dict[str, Any]:
        """What the plan comes to, whatever the file looked like; run options are no part of it."""
        return {
            "schema": SCHEMA,
            "pages": dict(self.pages),
            "boards": [
                {
                    "protocol": board[0].protocol.document(),
                    "cells": [
                        {
                            "target": cell.target.document(),
                            "defense": cell.defense.document() if cell.defense else None,
                            "attack": cell.attack.document(),
                            "excluded": cell.excluded,
                        }
                        for cell in board
                    ],
                }
                for board in self.boards
            ],
        }

    @property
    def digest(self) -> str:
        return digest(self.document())

    def default_name(self, dataset: str) -> str:
        """What a run of this plan on `dataset` is called.

        Data set, protocol and six digits of the plan's hash.
        """
        return f"{self.boards[0][0].protocol.title(dataset)}-{self.digest[:6]}"


COST_MODEL = "ptflops-aten-1"
"""Names the way of counting; part of every cell's key. Bumped with `bench.evaluation.cost`."""
