"""The 8-bit grid, projection onto threats, norms, PSNR and SSIM.

Float images are in [0,1], shape (N, C, H, W). Saved images are uint8 of the same shape.
D = 255 (x' - x) is int64 between saved images. Distances are always taken from the clean image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.contracts.threat import PSNR_CAP as PSNR_CAP
from bench.contracts.threat import Threat


def to_float(saved: Tensor) -> Tensor:
    """A saved image as float32 in [0,1].

    Args:
        saved: uint8, any shape.

    Returns:
        float32 of the same shape: the value over 255.

    Examples:
        >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """
    return saved.to(torch.float32) / 255


def to_grid(images: Tensor) -> Tensor:
    """The image as it would be saved: clipped to [0,1], rounded to the nearest of 256 levels.

    Args:
        images: float, any shape.

    Returns:
        uint8 of the same shape.

    Examples:
        >>> to_grid(torch.tensor([-0.1, 0.001, 0.2, 1.5]))
        tensor([  0,   0,  51, 255], dtype=torch.uint8)
    """
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def difference(saved: Tensor, clean: Tensor) -> Tensor:
    """The difference D = 255 (x' - x) of two saved images.

    Args:
        saved: uint8, the changed image x'.
        clean: uint8 of the same shape, the clean image x.

    Returns:
        int64 of the same shape, from -255 to 255.

    Examples:
        >>> saved = torch.tensor([3, 255], dtype=torch.uint8)
        >>> clean = torch.tensor([5, 0], dtype=torch.uint8)
        >>> difference(saved, clean)
        tensor([ -2, 255])
    """
    return saved.to(torch.int64) - clean.to(torch.int64)


def squared_sum(d: Tensor) -> Tensor:
    """The sum of D^2 over each image.

    Args:
        d: (N, ...) differences in grey levels, as `difference` gives them.

    Returns:
        (N,) of the dtype of `d`; exact for int64.

    Examples:
        >>> squared_sum(torch.tensor([[[[3, -4]]], [[[0, 1]]]]))
        tensor([25,  1])
    """
    return d.flatten(1).square().sum(1)


def psnr(total: Tensor, values: int) -> Tensor:
    """The peak signal-to-noise ratio, 10 log10(255^2 values / total), with peak 255.

    Args:
        total: (N,) sums of D^2, as `squared_sum` gives them.
        values: how many numbers an image has, C H W.

    Returns:
        (N,) float64 in decibel; `PSNR_CAP` where nothing changed.

    Examples:
        Every value off by one level is 48.13 dB:

        >>> psnr(torch.tensor([3072, 0]), 3072)
        tensor([ 48.1308, 120.0000], dtype=torch.float64)
    """
    decibel = 10 * torch.log10(255.0**2 * values / total.to(torch.float64).clamp(min=1e-12))
    return torch.where(total == 0, torch.full_like(decibel, PSNR_CAP), decibel)


def ssim(saved: Tensor, clean: Tensor) -> Tensor:
    """The structural similarity, with a Gaussian window of 11x11, sigma 1.5 and data range 1.

    The mean over channels and positions of the index with K1 = 0.01 and K2 = 0.03; edges are
    mirrored. Sides under 11 pixels, into which the window does not fit, are mirrored to 11 first.
    Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity,
    IEEE TIP 2004, equation 13.

    Args:
        saved: (N, C, H, W) uint8.
        clean: (N, C, H, W) uint8.

    Returns:
        (N,) float64, at most 1, which is reached by equal images.

    Examples:
        >>> clean = torch.arange(192, dtype=torch.uint8).reshape(1, 3, 8, 8)
        >>> [f"{value:.3f}" for value in ssim(clean, clean).tolist()]
        ['1.000']
    """
    x, y = (_mirrored(picture.to(torch.float64) / 255, 11) for picture in (saved, clean))
    x, y = (F.pad(picture, (5, 5, 5, 5), mode="reflect") for picture in (x, y))
    line = (torch.arange(-5, 6, dtype=torch.float64, device=x.device) / 1.5).square()
    weight = torch.exp(-line / 2)
    weight = weight / weight.sum()
    window = torch.outer(weight, weight).expand(x.shape[1], 1, 11, 11)
    stacked = torch.cat([x, y, x * x, y * y, x * y])
    means = F.conv2d(stacked, window, groups=x.shape[1]).split(len(x))
    mean_xx, mean_yy, mean_xy = means[0].square(), means[1].square(), means[0] * means[1]
    variance_x = (means[2] - mean_xx).clamp(min=0)
    variance_y = (means[3] - mean_yy).clamp(min=0)
    luminance = (2 * mean_xy + 0.01**2) / (mean_xx + mean_yy + 0.01**2)
    structure = (2 * (means[4] - mean_xy) + 0.03**2) / (variance_x + variance_y + 0.03**2)
    index: Tensor = luminance * structure
    return index.flatten(1).mean(1)


def _mirrored(images: Tensor, least: int) -> Tensor:
    """Images of sides of at least `least` pixels, mirrored to the right and below where short."""
    for axis in (-2, -1):
        while images.shape[axis] < least:
            missing = min(least - images.shape[axis], images.shape[axis])
            images = torch.cat([images, images.flip(axis).narrow(axis, 0, missing)], axis)
    return images


def inside(d: Tensor, threat: Threat) -> Tensor:
    """Whether each image satisfies its threat exactly, as integers.

    Args:
        d: (N, C, H, W) int64 differences, as `difference` gives them.
        threat: the bound.

    Returns:
        (N,) bool.

    Examples:
        >>> from bench.contracts.threat import parse_threat
        >>> threat = parse_threat({"norm": "linf", "eps": "8/255"})
        >>> inside(torch.tensor([[[[8, -8]]], [[[9, 0]]]]), threat)
        tensor([ True, False])
    """
    bound = threat.bound(d[0].numel())
    if bound is None:
        return torch.ones(len(d), dtype=torch.bool, device=d.device)
    if threat.norm == "linf":
        return d.flatten(1).abs().amax(1) <= bound
    if threat.norm == "patch":
        return (d.abs() * ~_best_square(d.abs().to(torch.float64), bound)).flatten(1).sum(1) == 0
    return squared_sum(d) <= bound


def project(images: Tensor, clean: Tensor, threat: Threat) -> Tensor:
    """The projection that attacks apply to each iterate: onto [0,1], then onto the threat.

    Args:
        images: (N, C, H, W) float, the iterate.
        clean: (N, C, H, W) float, the clean images, on the 8-bit grid.
        threat: whose integer bound is met in real numbers; `settle` rounds afterwards.

    Returns:
        (N, C, H, W) float.

    Examples:
        >>> from bench.contracts.threat import parse_threat
        >>> threat = parse_threat({"norm": "linf", "eps": "51/255"})
        >>> clean = torch.tensor([[[[0.0, 1.0]]]])
        >>> project(torch.tensor([[[[0.9, 0.9]]]]), clean, threat)
        tensor([[[[0.2000, 0.9000]]]])
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
    """Whether a float image lies outside its threat by more than float noise.

    The noise that is allowed for is 1e-4 of a grey level (`linf`, `patch`) or 1e-5 of the radius.

    Args:
        images: (N, C, H, W) float.
        clean: (N, C, H, W) float, the clean images.
        threat: the bound.

    Returns:
        (N,) bool.

    Examples:
        >>> from bench.contracts.threat import parse_threat
        >>> threat = parse_threat({"norm": "linf", "eps": "51/255"})
        >>> clean = torch.tensor([[[[0.0, 1.0]]]])
        >>> overshoot(torch.tensor([[[[0.9, 0.9]]]]), clean, threat)
        tensor([True])
    """
    bound = threat.bound(clean[0].numel())
    if bound is None:
        return torch.zeros(len(images), dtype=torch.bool, device=images.device)
    d = 255 * (images.to(torch.float64) - clean.to(torch.float64))
    if threat.norm == "linf":
        return d.flatten(1).abs().amax(1) > bound + 1e-4
    if threat.norm == "patch":
        outside = torch.where(_best_square(d.square(), bound), torch.zeros_like(d), d)
        return outside.flatten(1).abs().amax(1) > 1e-4
    radius: float = bound**0.5
    norm: Tensor = torch.linalg.vector_norm(d.flatten(1), dim=1)
    return norm > radius * (1 + 1e-5)


def settle(images: Tensor, clean: Tensor, threat: Threat) -> Tensor:
    """The saved image: projected, rounded to uint8, moved back until the integer bound holds.

    While an image is outside, the values that rounding pushed outwards most move one level back,
    in a fixed order.

    Args:
        images: (N, C, H, W) float, finite.
        clean: (N, C, H, W) uint8.
        threat: the bound.

    Returns:
        (N, C, H, W) uint8, inside the threat exactly.

    Examples:
        >>> from bench.contracts.threat import parse_threat
        >>> threat = parse_threat({"norm": "linf", "eps": "8/255"})
        >>> clean = torch.tensor([[[[0, 250]]]], dtype=torch.uint8)
        >>> settle(torch.tensor([[[[0.5, 1.0]]]]), clean, threat)
        tensor([[[[  8, 255]]]], dtype=torch.uint8)
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
            d = _step_back(d, wanted, bound)
    return (clean.to(torch.int64) + d).to(torch.uint8)


def _step_back(d: Tensor, wanted: Tensor, bound: int) -> Tensor:
    """Integer D (N, C, H, W) brought to sum D^2 <= bound by single levels towards 0, most outward
    rounding first.

    One level is enough for every value: D is at most half a level from `wanted`, which lies inside,
    so one level less than D lies inside too. Nothing here waits for a device.
    """
    outside = squared_sum(d) > bound
    if d.device.type == "cpu":  # there a look costs nothing, and few images are outside
        if not bool(outside.any()):
            return d
        rows = outside.nonzero().flatten()
        return d.index_copy(0, rows, _shortened(d[rows], wanted[rows], bound))
    return torch.where(outside[:, None, None, None], _shortened(d, wanted, bound), d)


def _shortened(d: Tensor, wanted: Tensor, bound: int) -> Tensor:
    """D with as few values moved one level back as bring each sum of squares to the bound."""
    flat, goal = d.flatten(1), wanted.flatten(1)
    outward = (flat.abs().to(torch.float64) - goal.abs()).masked_fill(flat == 0, -torch.inf)
    order = outward.argsort(dim=1, descending=True, stable=True)
    saved = (2 * flat.abs() - 1).clamp(min=0).gather(1, order)
    excess = flat.square().sum(1, keepdim=True) - bound
    chosen = (saved.cumsum(1) - saved < excess) & (saved > 0)
    step = torch.zeros_like(flat).scatter(1, order, chosen.to(flat.dtype))
    return (flat - step * flat.sign()).view_as(d)


def _best_square(weight: Tensor, side: int) -> Tensor:
    """The square that covers most of `weight`, the first among equals.

    Args:
        weight: (N, C, H, W), not negative.
        side: of the square, in pixels.

    Returns:
        (N, 1, H, W) bool.
    """
    height, width = weight.shape[-2:]
    side_y, side_x = min(side, height), min(side, width)
    covered = F.avg_pool2d(weight.sum(1, keepdim=True), (side_y, side_x), stride=1)
    best = covered.flatten(1).argmax(1)
    columns = covered.shape[-1]
    top, left = (best // columns)[:, None, None, None], (best % columns)[:, None, None, None]
    y = torch.arange(height, device=weight.device)[None, None, :, None]
    x = torch.arange(width, device=weight.device)[None, None, None, :]
    square: Tensor = (y >= top) & (y < top + side_y) & (x >= left) & (x < left + side_x)
    return square
