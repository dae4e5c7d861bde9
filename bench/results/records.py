"""What a board is made of: cells with their statistics, standings of targets, transfers. Values
only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.contracts.cell import Who, cell_label
from bench.contracts.cell import defended_name as defended_name
from bench.contracts.threat import PSNR_CAP
from bench.files.canonical import digest
from bench.results.headroom import HeadroomEntry
from bench.results.row_table import COLUMNS, RowTable
from bench.results.rows import ImageRow, Rows, UnitRow
from bench.results.stats import UNDEFINED, Estimate
from bench.store.latency import Latency
from bench.store.sealed import STATUSES as SEALED
from bench.store.submission import Submission

STATUSES = (*SEALED, "withdrawn", "missing")
"""What can have become of a cell; all but the last two are written when it is sealed."""


_IDENTITY = ("name", "distribution", "params", "version")
"""What a component is, beside its weights."""


@dataclass(frozen=True)
class BoardCell:
    """One (target, defense, attack) of the board.

    Attributes:
        key: sha256 of the resolved inputs, hex.
        target: its label.
        defense: its label, "" for none.
        attack: its label.
        inputs: the resolved document: protocol, target, defense, attack with all parameters,
            digest of the weights, versions.
        status: one of `STATUSES`.
        reason: why, where it is not ok.
        refused: whether its numbers are left out since what lies in its folder cannot be believed,
            whatever its run found.
        control: whether the attack is a control (identity, noise, contrast), which is not ranked.
        flags: short words such as "left-threat" and "near-threshold".
        n: images.
        classes: names of the classes, where the data set has them.
        floor: MACs of the target's cheapest decisions.
        ceiling: MACs of its dearest decisions.
        reference: the ceiling of the network without its defense, against which savings and
            recovery are measured, so that a defense which only raises the cost gains nothing.
        clean_macs: mean over the clean images.
        adversarial_macs: mean over the saved adversarial images.
        float_macs: mean over the images before they were saved.
        recovery: (adversarial - clean) / (reference - clean), ratio of means.
        float_recovery: the same of the images before they were saved.
        jpeg_recovery: the same of the saved images after a JPEG round trip of quality 90.
        mean_recovery: mean of the ratios of single images.
        block_recovery: the ratio of block counts that the original code prints.
        clean_saving: 1 - MACs / reference of the clean images.
        surviving_saving: the same of the adversarial images.
        clean_efficacy: area under the curve of images finished by cost
            (`bench.results.stats.efficacy`).
        adversarial_efficacy: the same of the adversarial images.
        clean_accuracy: share of clean images classified correctly.
        adversarial_accuracy: share of adversarial images classified correctly.
        agreement: share of adversarial images that keep the clean prediction.
        psnr: mean over the saved images, dB.
        pooled_psnr: of the mean squared error over all images, dB.
        unchanged: images that the attack left as they are; `psnr` has them at `PSNR_CAP`.
        ssim: mean over the saved images.
        l2: mean, pixel values in [0,1].
        linf: largest change of any image, gray levels.
        flip_rate: share of the units open at one evaluation of the attack that were closed at the
            next.
        evaluations: mean forward-equivalents used.
        attack_rank: of the attack on this target, 1 is strongest; rows that are not significantly
            different share one; None if unranked.
        series: the attack's label without what a sweep put into it.
        sees: what the attack knew: "gates" of the defended target, "network" without its defense,
            "macs" alone; "unknown" of images that were handed in.
        combination: of an ensemble: "budget" in all, "members" with label, key, wins and
            evaluations, "left_out" with reasons.
        fit: of an attack that learned something first: "images" and "evaluations" of that.
        units: of the target.
        environment: versions, device class, threads.
        command: what reproduces the cell.
        digest: of the rows and of what the target says of itself; "" where the rows lie in memory.
        submission: who handed its images in; None where they were computed here.
        rows: loads the images when called.
    """

    key: str
    target: str
    defense: str
    attack: str
    inputs: Mapping[str, Any]
    status: str
    reason: str = ""
    control: bool = False
    flags: tuple[str, ...] = ()
    n: int = 0
    classes: tuple[str, ...] = ()
    floor: int | None = None
    ceiling: int | None = None
    reference: int | None = None
    clean_macs: float | None = None
    adversarial_macs: float | None = None
    float_macs: float | None = None
    recovery: Estimate = UNDEFINED
    float_recovery: Estimate = UNDEFINED
    jpeg_recovery: Estimate = UNDEFINED
    mean_recovery: Estimate = UNDEFINED
    block_recovery: float | None = None
    clean_saving: Estimate = UNDEFINED
    surviving_saving: Estimate = UNDEFINED
    clean_efficacy: Estimate = UNDEFINED
    adversarial_efficacy: Estimate = UNDEFINED
    clean_accuracy: Estimate = UNDEFINED
    adversarial_accuracy: Estimate = UNDEFINED
    agreement: Estimate = UNDEFINED
    psnr: float | None = None
    pooled_psnr: float | None = None
    unchanged: int = 0
    ssim: float | None = None
    l2: float | None = None
    linf: int | None = None
    flip_rate: float | None = None
    evaluations: float | None = None
    attack_rank: int | None = None
    series: str = ""
    sees: str = "gates"
    combination: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    units: tuple[UnitRow, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    digest: str = ""
    submission: Submission | None = None
    refused: bool = False
    rows: Callable[[], Sequence[ImageRow]] = field(default=lambda: (), repr=False, compare=False)

    def table(self) -> RowTable:
        """The numbers of its images as columns; reads no pictures where the rows lie on disk."""
        if isinstance(self.rows, Rows):
            return RowTable.of_shards(self.rows.store.table(COLUMNS), self.rows.units)
        return RowTable.of_rows(self.rows())

    def some_rows(self, places: Sequence[int]) -> Sequence[ImageRow]:
        """The images at these places, pictures and all."""
        if isinstance(self.rows, Rows):
            return self.rows.some(places)
        rows = self.rows()
        return [rows[place] for place in places]

    @property
    def who(self) -> Who:
        """Its target and defense by label."""
        return self.target, self.defense

    @property
    def defended(self) -> str:
        """Its target with its defense, in words."""
        return defended_name(self.target, self.defense)

    @property
    def label(self) -> str:
        """What it is called everywhere."""
        return cell_label(self.target, self.defense, self.attack)

    @property
    def network(self) -> str:
        """Digest of what its target and defense are, whatever they are called: cells of two runs
        may share their labels and not this."""
        parts = [self.inputs.get(kind) or {} for kind in ("target", "defense")]
        return digest(
            [
                {name: part.get(name) for name in _IDENTITY}
                | {"weights": part.get("digest") or part.get("weights")}
                for part in parts
            ]
        )

    @property
    def changed_psnr(self) -> float | None:
        """Mean PSNR of the images that changed, dB; None where none did."""
        changed = self.n - self.unchanged
        if self.psnr is None or not changed:
            return None
        return (self.psnr * self.n - PSNR_CAP * self.unchanged) / changed

    @property
    def overall_psnr(self) -> float | None:
        """PSNR as boards show it: of the mean squared error, else the mean over images."""
        return self.psnr if self.pooled_psnr is None else self.pooled_psnr


@dataclass(frozen=True)
class TargetStanding:
    """A (target, defense) of the board, ranked by the saving that survives the strongest attack on
    it.

    Attributes:
        rank: 1 is most robust; shared where the paired difference is not significant; None if
            unranked, or where attacks are lacking.
        strongest: label of the strongest attack, None where no attack ran.
        surviving_saving: 1 - adversarial / reference under that attack.
        clean_saving: of the strongest attack's cell, as all that follow.
        clean_accuracy: of that cell.
        adversarial_accuracy: of that cell.
        recovery: of that cell.
        psnr: of that cell, in dB.
        headroom: what a multiple of the budget adds to the strongest images, where
            `gatebench headroom` measured it.
        lacks: labels of the attacks that have numbers on another target of the board and none here:
            they came to no end (unfinished, failed, out of time …) or were not run.
    """

    target: str
    defense: str
    rank: int | None
    strongest: str | None
    surviving_saving: Estimate
    clean_saving: Estimate
    clean_accuracy: Estimate
    adversarial_accuracy: Estimate
    recovery: Estimate
    psnr: float | None
    headroom: HeadroomEntry | None = None
    lacks: tuple[str, ...] = ()

    @property
    def defended(self) -> str:
        """The target with its defense, in words."""
        return defended_name(self.target, self.defense)


@dataclass(frozen=True)
class Transferred:
    """The saved images of one target, evaluated on another.

    Attributes:
        source, attack: whose images, and what made them.
        victim: who evaluated them.
        recovery: of the victim's own saving.
        macs: mean executed.
    """

    source: str
    attack: str
    victim: str
    recovery: Estimate
    macs: float


@dataclass(frozen=True)
class Board:
    """All cells of one protocol.

    Attributes:
        name: of the run.
        protocol: the resolved protocol (dataset, images, batch, threat, budget, seed …).
        plan: the resolved plan document.
        command: what reproduces the run.
        dataset: name as shown.
        dataset_note: "for trying, not for claims" and such, may be empty.
        credits: lines to show with the pictures.
        preliminary: fewer than 100 images.
        ranked: whether attacks are ranked (only under a ball).
        intervals: one sentence naming level, method and n.
        version: of gatebench.
        cells: in plan order.
        standings: best first.
        transfers: of every pair of targets, where `gatebench transfer` was run.
        latency: what `gatebench latency` measured, where it was run.
        terms: what tells the boards of one run apart, in words.
        unreadable: a sentence for each measurement beside the cells (headroom, transfer, latency)
            whose file is damaged; the board is shown without it.
    """

    name: str
    protocol: Mapping[str, Any]
    plan: Mapping[str, Any]
    command: str
    dataset: str
    dataset_note: str
    credits: tuple[str, ...]
    preliminary: bool
    ranked: bool
    intervals: str
    version: str
    cells: tuple[BoardCell, ...]
    standings: tuple[TargetStanding, ...]
    transfers: tuple[Transferred, ...] = ()
    latency: Latency | None = None
    terms: str = ""
    unreadable: tuple[str, ...] = ()
