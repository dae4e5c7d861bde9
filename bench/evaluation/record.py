"""The rows of a batch: one an image, in the columns of a shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench import codec
from bench.evaluation.judge import JudgedImages
from bench.evaluation.outputs import near_threshold
from bench.evaluation.prepare import Opened
from bench.evaluation.score import Scored
from bench.evaluation.view import TargetView
from bench.image import difference, psnr, squared_sum, ssim
from bench.store.schema import pack


def shard_rows(
    opened: Opened,
    places: Sequence[int],
    ids: Sequence[str],
    clean8: Tensor,
    ruled: JudgedImages,
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
    close = near_threshold(looked, opened.noise).sum(1)
    labels = opened.dataset.labels
    columns: dict[str, list[Any]] = {
        "id": list(ids),
        "label": [int(labels[opened.indices[place]]) for place in places],
        "clean_prediction": before.output.logits.argmax(1).tolist(),
        "adversarial_prediction": after.output.logits.argmax(1).tolist(),
        "clean_macs": before.macs.tolist(),
        "adversarial_macs": after.macs.tolist(),
        "float_macs": unrounded.macs.tolist(),
        "jpeg_macs": reloaded.macs.tolist(),
        "clean_decisions": pack(before.output.decisions.cpu()),
        "adversarial_decisions": pack(after.output.decisions.cpu()),
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
        "adversarial": [{"bytes": data, "path": None} for data in ruled.pictures],
    }
    return [{name: values[i] for name, values in columns.items()} for i in range(len(ids))]


def _points(trace: Sequence[tuple[int, int, float]]) -> list[dict[str, Any]]:
    return [{"evaluations": used, "macs": macs, "squared": near} for used, macs, near in trace]


def _picture(image: Tensor) -> dict[str, Any]:
    """A (C, H, W) uint8 image in the struct that data set viewers understand."""
    return {"bytes": codec.png(image), "path": None}
