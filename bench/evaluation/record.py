"""One shard of one cell: clean pass, attack, judge, audit, record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import codec
from bench.evaluation import judge, target_checks
from bench.evaluation.prepare import Opened
from bench.evaluation.score import Scored
from bench.evaluation.view import TargetView
from bench.image import difference, psnr, squared_sum, ssim


def shard_rows(
    cell: Opened,
    places: Sequence[int],
    ids: Sequence[str],
    clean8: Tensor,
    ruled: judge.Verdict,
    before: Scored,
    unrounded: Scored,
    after: Scored,
    reloaded: Scored,
    view: TargetView,
) -> list[dict[str, Any]]:
    d = difference(ruled.saved, clean8)
    total = squared_sum(d)
    values = d[0].numel()
    looked = torch.cat([before.output.margins, after.output.margins], 1)
    close = target_checks.near(cell.target, looked, cell.noise).sum(1)
    labels = cell.dataset.labels
    columns: dict[str, list[Any]] = {
        "id": list(ids),
        "label": [int(labels[cell.indices[place]]) for place in places],
        "clean_prediction": before.output.logits.argmax(1).tolist(),
        "adversarial_prediction": after.output.logits.argmax(1).tolist(),
        "clean_macs": before.macs.tolist(),
        "adversarial_macs": after.macs.tolist(),
        "float_macs": unrounded.macs.tolist(),
        "jpeg_macs": reloaded.macs.tolist(),
        "clean_decisions": packed(before.output.decisions),
        "adversarial_decisions": packed(after.output.decisions),
        "linf": d.flatten(1).abs().amax(1).tolist(),
        "squared": total.tolist(),
        "l2": (total.to(torch.float64).sqrt() / 255).tolist(),
        "psnr": psnr(total, values).tolist(),
        "ssim": ssim(ruled.saved, clean8).tolist(),
        "evaluations": view.ledger.used.tolist(),
        "forwards": view.ledger.forwards.tolist(),
        "backwards": view.ledger.backwards.tolist(),
        "held": view.ledger.held.tolist(),
        "flipped": view.ledger.flipped.tolist(),
        "near_threshold": close.tolist(),
        "overshoot": ruled.overshoot.tolist(),
        "trace": [_points(view.ledger.trace(i)) for i in range(len(ids))],
        "image": [_picture(image) for image in clean8],
        "adversarial": [_picture(image) for image in ruled.saved],
    }
    return [{name: values[i] for name, values in columns.items()} for i in range(len(ids))]


def _points(trace: Sequence[tuple[int, int, float]]) -> list[dict[str, Any]]:
    return [{"evaluations": used, "macs": macs, "squared": near} for used, macs, near in trace]


def packed(decisions: Tensor) -> list[bytes]:
    """Each row of (N, U) bool as packed bits, first unit in the highest bit."""
    return [np.packbits(row).tobytes() for row in decisions.cpu().numpy()]


def _picture(image: Tensor) -> dict[str, Any]:
    """A (C, H, W) uint8 image in the struct that data set viewers understand."""
    return {"bytes": codec.png(image), "path": None}
