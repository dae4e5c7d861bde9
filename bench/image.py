"""The 8-bit grid, projection onto threats, norms, PSNR and SSIM.

Float images are in [0,1], shape (N, C, H, W); saved images are uint8 of the same shape. D = 255 (x' - x) is int64
between saved images. Distances are always taken from the true clean image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from bench.contracts.threat import Threat

PSNR_CAP = 120.0
"""dB reported for an unchanged image, whose PSNR is infinite."""


def to_float(saved: Tensor) -> Tensor:
    """uint8 -> float32 in [0,1]."""
    return saved.to(torch.float32) / 255


def to_grid(images: Tensor) -> Tensor:
    """The uint8 image that would be saved: clipped to [0,1], rounded to the nearest of 256 levels."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def difference(saved: Tensor, clean: Tensor) -> Tensor:
    """D = 255 (x' - x) as int64, from two uint8 images."""
    return saved.to(torch.int64) - clean.to(torch.int64)


def squared_sum(d: Tensor) -> Tensor:
    """(N,) sum of D^2 over an image; int64 for an integer D."""
    return d.flatten(1).square().sum(1)


def psnr(total: Tensor, values: int) -> Tensor:
    """(N,) float64 dB from the integer sum of D^2 over `values` numbers, peak 255; `PSNR_CAP` where nothing changed."""
    decibel = 10 * torch.log10(255.0**2 * values / total.to(torch.float64).clamp(min=1e-12))
    return torch.where(total == 0, torch.full_like(decibel, PSNR_CAP), decibel)


def ssim(saved: Tensor, clean: Tensor) -> Tensor:
    """(N,) float64 structural similarity, 11x11 Gaussian of sigma 1.5, data range 1, from uint8 images.

    Sides under 11 pixels are mirrored to 11 first: the window does not fit into them.
    """
    first, second = (_mirrored(picture.to(torch.float64) / 255, 11) for picture in (saved, clean))
    value = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none")
    assert isinstance(value, Tensor)
    return value.reshape(-1)


def _mirrored(images: Tensor, least: int) -> Tensor:
    """Images whose sides are at least `least` pixels, continued by their mirror images to the right and below."""
    for axis in (-2, -1):
        while images.shape[axis] < least:
            missing = min(least - images.shape[axis], images.shape[axis])
            images = torch.cat([images, images.flip(axis).narrow(axis, 0, missing)], axis)
    return images


def inside(d: Tensor, threat: Threat) -> Tensor:
    """(N,) bool: whether the integer differences D (N, C, H, W) satisfy the threat exactly."""
    bound = threat.bound(d[0].numel())
    if bound is None:
        return torch.ones(len(d), dtype=torch.bool, device=d.device)
    if threat.norm == "linf":
        return d.flatten(1).abs().amax(1) <= bound
    if threat.norm == "patch":
        return (d.abs() * ~_best_square(d.abs().to(torch.float64), bound)).flatten(1).sum(1) == 0
    return squared_sum(d) <= bound


def project(images: Tensor, clean: Tensor, threat: Threat) -> Tensor:
    """The float projection that attacks apply to each iterate: [0,1], then the threat.

    Args:
        images: (N, C, H, W) float iterate.
        clean: (N, C, H, W) float clean images on the 8-bit grid.
        threat: whose integer bound is met in real numbers (rounding afterwards is the judge's affair).
    """
    bound = threat.bound(clean[0].numel())
    boxed = images.clamp(0, 1)
    if bound is None:
        return boxed
    delta = boxed - clean
    if threat.norm == "linf":
        return (clean + delta.clamp(-bound / 255, bound / 255)).clamp(0, 1)
    if threat.norm == "patch":
        return torch.where(_best_square(delta.square().to(torch.float64), bound), boxed, clean)
    radius = bound**0.5 / 255
    norm = delta.flatten(1).norm(dim=1)
    scale = torch.where(norm > radius, radius / norm.clamp(min=1e-30), torch.ones_like(norm))
    return (clean + delta * scale[:, None, None, None]).clamp(0, 1)


def overshoot(images: Tensor, clean: Tensor, threat: Threat) -> Tensor:
    """(N,) bool: whether a float image lies outside its threat by more than float noise (1e-4 of a level or 1e-5 of the radius)."""
    bound = threat.bound(clean[0].numel())
    if bound is None:
        return torch.zeros(len(images), dtype=torch.bool, device=images.device)
    d = 255 * (images.to(torch.float64) - clean.to(torch.float64))
    if threat.norm == "linf":
        return d.flatten(1).abs().amax(1) > bound + 1e-4
    if threat.norm == "patch":
        outside = torch.where(_best_square(d.square(), bound), torch.zeros_like(d), d)
        return outside.flatten(1).abs().amax(1) > 1e-4
    return d.flatten(1).norm(dim=1) > bound**0.5 * (1 + 1e-5)


def settle(images: Tensor, clean: Tensor, threat: Threat) -> Tensor:
    """The saved image: projected, rounded to uint8, and moved back until the integer bound holds.

    While an image is outside, the values that rounding pushed outwards most move one level back, in a fixed order.

    Args:
        images: (N, C, H, W) float, finite.
        clean: (N, C, H, W) uint8.
        threat: the bound.
    """
    target = project(images.to(torch.float64), to_float(clean).to(torch.float64), threat)
    wanted = 255 * target - clean.to(torch.float64)
    d = difference(to_grid(target), clean)
    bound = threat.bound(clean[0].numel())
    if bound is not None:
        if threat.norm == "linf":
            d = d.clamp(-bound, bound)
        elif threat.norm == "patch":
            d = torch.where(
                _best_square(d.square().to(torch.float64), bound), d, torch.zeros_like(d)
            )
        else:
            for row in (squared_sum(d) > bound).nonzero().flatten().tolist():
                d[row] = _step_back(d[row], wanted[row], bound)
    return (clean.to(torch.int64) + d).to(torch.uint8)


def _step_back(d: Tensor, wanted: Tensor, bound: int) -> Tensor:
    """One image's integer D, brought to sum D^2 <= bound by single levels towards 0, most outward rounding first."""
    flat, goal = d.flatten().clone(), wanted.flatten()
    while int(flat.square().sum()) > bound:
        outward = torch.where(
            flat != 0, flat.abs().to(torch.float64) - goal.abs(), torch.full_like(goal, -torch.inf)
        )
        order = outward.argsort(descending=True, stable=True)[: int((flat != 0).sum())]
        saved = (2 * flat[order].abs() - 1).cumsum(0)
        excess = int(flat.square().sum()) - bound
        count = int((saved < excess).sum()) + 1
        chosen = order[:count]
        flat[chosen] -= flat[chosen].sign()
    return flat.reshape(d.shape)


def _best_square(weight: Tensor, side: int) -> Tensor:
    """(N, 1, H, W) bool: the square of `side` pixels that covers most of `weight` (N, C, H, W), first among equals."""
    height, width = weight.shape[-2:]
    side_y, side_x = min(side, height), min(side, width)
    covered = F.avg_pool2d(weight.sum(1, keepdim=True), (side_y, side_x), stride=1)
    best = covered.flatten(1).argmax(1)
    columns = covered.shape[-1]
    top, left = (best // columns)[:, None, None, None], (best % columns)[:, None, None, None]
    y = torch.arange(height, device=weight.device)[None, None, :, None]
    x = torch.arange(width, device=weight.device)[None, None, None, :]
    return (y >= top) & (y < top + side_y) & (x >= left) & (x < left + side_x)
