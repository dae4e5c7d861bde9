"""Sealed cells -> a frozen table with statistics and lazy access to the rows of every image.

The board is the only thing that a report sees. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; `value` is None where it is undefined (printed as a dash)."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class UnitRow:
    """One unit of a target, for people and gate maps (see `bench.api.Units`)."""

    name: str
    kind: str
    owner: str
    shape: tuple[int, ...]
    cost: int
    threshold: float


@dataclass(frozen=True)
class ImageRow:
    """One image of a cell.

    Attributes:
        id, label: stable id and true class.
        clean_prediction, adversarial_prediction: classes.
        clean_macs, adversarial_macs, float_macs: executed MACs of the clean image, of the saved adversarial image, and of the
            float image before it was saved.
        clean_decisions, adversarial_decisions: (U,) whether each unit ran.
        linf: largest |D| in grey levels; squared: integer sum of D^2; l2: in [0,1] pixel units; psnr in dB; ssim.
        evaluations, forwards, backwards: forward-equivalents and plain counts that the attack used.
        near_threshold: units whose margin lay within the target's own float noise.
        overshoot: the attack left its threat and was pulled back.
        trace: (forward-equivalents, macs, sum of D^2) of the best image so far, at most 32 points.
        image, adversarial: PNG bytes.
    """

    id: str
    label: int
    clean_prediction: int
    adversarial_prediction: int
    clean_macs: int
    adversarial_macs: int
    float_macs: int
    clean_decisions: tuple[bool, ...]
    adversarial_decisions: tuple[bool, ...]
    linf: int
    squared: int
    l2: float
    psnr: float
    ssim: float
    evaluations: int
    forwards: int
    backwards: int
    near_threshold: int
    overshoot: bool
    trace: tuple[tuple[int, int, float], ...]
    image: bytes
    adversarial: bytes


@dataclass(frozen=True)
class BoardCell:
    """One (target, defence, attack) of the board.

    Attributes:
        key: sha256 of the resolved inputs, hex.
        target, defense, attack: labels as shown (`defense` is "" for none).
        inputs: the resolved document: protocol, target, defense, attack with all parameters, weights digest, versions.
        status: ok, skipped, invalid, failed, timeout, oom or missing; reason: why, where it is not ok.
        control: whether the attack is a control (identity, noise, contrast …), which is ranked with nobody.
        flags: short words such as "left-threat", "near-threshold", "few-images".
        n: images.
        classes: class names, where the data set has them.
        floor, ceiling: MACs; clean_macs, adversarial_macs, float_macs: means.
        recovery: (adversarial - clean) / (ceiling - clean), ratio of means; float_recovery: of the float images.
        mean_recovery: mean of per-image ratios; block_recovery: the block-count ratio of the original code.
        clean_saving, surviving_saving: 1 - macs / ceiling.
        clean_accuracy, adversarial_accuracy, agreement: shares.
        psnr (mean dB), pooled_psnr (dB of the mean squared error), ssim, l2, linf: of the saved images.
        evaluations: mean forward-equivalents used.
        attack_rank: rank of the attack on this target, 1 is strongest; rows not significantly different share one; None if unranked.
        units: the target's units. environment: versions, device class, threads. command: what reproduces the cell.
        rows: loads the images (lazy).
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
    clean_macs: float | None = None
    adversarial_macs: float | None = None
    float_macs: float | None = None
    recovery: Estimate = Estimate(None)
    float_recovery: Estimate = Estimate(None)
    mean_recovery: Estimate = Estimate(None)
    block_recovery: float | None = None
    clean_saving: Estimate = Estimate(None)
    surviving_saving: Estimate = Estimate(None)
    clean_accuracy: Estimate = Estimate(None)
    adversarial_accuracy: Estimate = Estimate(None)
    agreement: Estimate = Estimate(None)
    psnr: float | None = None
    pooled_psnr: float | None = None
    ssim: float | None = None
    l2: float | None = None
    linf: int | None = None
    evaluations: float | None = None
    attack_rank: int | None = None
    units: tuple[UnitRow, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    rows: Callable[[], Sequence[ImageRow]] = field(default=lambda: (), repr=False, compare=False)


@dataclass(frozen=True)
class TargetStanding:
    """A (target, defence) of the board, ranked by the saving that survives the strongest attack on it.

    Attributes:
        rank: 1 is most robust; shared where the paired difference is not significant; None if unranked.
        strongest: label of the strongest attack, None where no attack ran.
        surviving_saving: 1 - adversarial / ceiling under that attack.
        clean_saving, clean_accuracy, adversarial_accuracy, recovery, psnr: as in the strongest attack's cell.
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


@dataclass(frozen=True)
class Board:
    """All cells of one protocol.

    Attributes:
        name: of the run; protocol: the resolved protocol (dataset, images, batch, threat, budget, seed …).
        plan: the resolved plan document. command: what reproduces the run.
        dataset: name as shown; dataset_note: "for trying, not for claims" and such, may be empty; credits: lines to show with the pictures.
        preliminary: fewer than 100 images.
        ranked: whether attacks are ranked (only under a ball).
        intervals: one sentence naming level, method and n. version: of gatebench.
        cells: in plan order. standings: best first.
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
