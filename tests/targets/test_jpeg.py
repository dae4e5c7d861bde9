"""JPEG in front of a network: the coder's arithmetic, and its gradient against a slow rewriting."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from bench.codec import through_jpeg
from bench.datasets.base import open_dataset
from bench.image import to_float
from bench.testing import ToyTarget
from targets.defenses.jpeg import CHROMA_STEPS, JPEG, LUMA_STEPS, quantization_steps

ZIGZAG = sorted(
    ((y, x) for y in range(8) for x in range(8)),
    key=lambda at: (sum(at), at[0] if sum(at) % 2 else at[1]),
)


def pictures(channels, height, width, count=6):
    """Digits cut to a size, on the 8-bit grid."""
    saved = torch.as_tensor(open_dataset("digits-m:test").images(range(count)))
    return to_float(saved[:, :channels, :height, :width].contiguous())


def before_a_network(quality, shape):
    inner = ToyTarget()
    inner.image_shape = shape
    return JPEG(quality=quality).wrap(inner)


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95])
def test_the_tables_are_those_that_pillow_writes(quality):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
    written = Image.open(file).quantization
    for number, base in ((0, LUMA_STEPS), (1, CHROMA_STEPS)):
        steps = quantization_steps(base, quality).int().tolist()
        # Pillow has given them row by row since 8.3, in zigzag order before.
        by_row = [value for row in steps for value in row]
        assert list(written[number]) in (by_row, [steps[y][x] for y, x in ZIGZAG])


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((3, 32, 32), id="color"),
        pytest.param((1, 28, 28), id="gray"),
        pytest.param((3, 20, 13), id="odd"),
        pytest.param((3, 5, 7), id="small"),
        pytest.param((3, 8, 15), id="half-a-block-of-color-below"),
    ],
)
@pytest.mark.parametrize("quality", [50, 75, 90])
def test_what_is_differentiated_is_what_the_coder_computes(shape, quality):
    images = pictures(*shape)
    coded = to_float(through_jpeg((images * 255).round().to(torch.uint8), quality))
    target = before_a_network(quality, shape)
    found = target.surrogate(images).clamp(0, 1)
    lost, differs = ((coded - images) ** 2).mean(), ((coded - found) ** 2).mean()
    # A few coefficients lie in the middle of two numbers, and the coder rounds to 8 bits on the way.
    assert differs < 0.15 * lost
    through = target.before(images.clone().requires_grad_())
    assert torch.equal(through, coded)


def slow_derivative(image, direction, quality):
    """How the decoded image moves as the image (C, H, W) moves, block by block, in float64."""
    steps = [
        np.floor((np.array(base) * (200 - 2 * quality) + 50) / 100)
        for base in (LUMA_STEPS, CHROMA_STEPS)
    ]
    wave = np.array(
        [[np.cos((2 * n + 1) * k * np.pi / 16) / 2 for n in range(8)] for k in range(8)]
    )
    wave[0] /= np.sqrt(2)

    def blocks(plane, moved, table, shift):
        found = np.zeros_like(plane)
        for y in range(0, plane.shape[0], 8):
            for x in range(0, plane.shape[1], 8):
                block, move = plane[y : y + 8, x : x + 8] - shift, moved[y : y + 8, x : x + 8]
                for k in range(8):
                    for m in range(8):
                        pattern = np.outer(wave[k], wave[m])
                        value = (block * pattern).sum() / table[k, m]
                        slope = 1.0 if abs(value) > 0.5 else 0.2 + 1.6 * abs(value)
                        found[y : y + 8, x : x + 8] += (move * pattern).sum() * slope * pattern
        return found

    channels, height, width = image.shape
    side = 16 if channels == 3 else 8
    room = ((0, 0), (0, -height % side), (0, -width % side))
    image, direction = (np.pad(each * 255.0, room, mode="edge") for each in (image, direction))
    if channels == 1:
        return blocks(image[0], direction[0], steps[0], 128)[None, :height, :width] / 255
    to_ycc = np.array([[0.299, 0.587, 0.114], [0, 0, 0], [0, 0, 0]])
    to_ycc[1] = (np.array([0, 0, 1]) - to_ycc[0]) / 1.772  # Cb = (B - Y) / 1.772
    to_ycc[2] = (np.array([1, 0, 0]) - to_ycc[0]) / 1.402  # Cr = (R - Y) / 1.402
    planes = [np.tensordot(to_ycc, each, 1) for each in (image, direction)]
    moved = [blocks(planes[0][0], planes[1][0], steps[0], 128)]
    for c in (1, 2):
        halves = [
            (p[c, ::2, ::2] + p[c, 1::2, ::2] + p[c, ::2, 1::2] + p[c, 1::2, 1::2]) / 4
            for p in planes
        ]
        for each in halves:  # below, the coder repeats rows of the halved picture
            each[(height + 1) // 2 :] = each[(height + 1) // 2 - 1]
        half = blocks(*halves, steps[1], 0)[: (height + 1) // 2, : (width + 1) // 2]
        whole = np.zeros_like(moved[0])
        for y in range(whole.shape[0]):
            for x in range(whole.shape[1]):
                near = [(y // 2, 0.75), (y // 2 + (1 if y % 2 else -1), 0.25)]
                side_ = [(x // 2, 0.75), (x // 2 + (1 if x % 2 else -1), 0.25)]
                whole[y, x] = sum(
                    a * b * half[min(max(i, 0), len(half) - 1), min(max(j, 0), half.shape[1] - 1)]
                    for i, a in near
                    for j, b in side_
                )
        moved.append(whole)
    return np.tensordot(np.linalg.inv(to_ycc), np.stack(moved), 1)[:, :height, :width] / 255


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((3, 32, 32), id="color"),
        pytest.param((1, 28, 28), id="gray"),
        pytest.param((3, 20, 13), id="odd"),
    ],
)
def test_the_gradient_is_that_of_a_slow_rewriting(shape):
    """For any direction v and weights g, g . J v as it is computed forwards and backwards."""
    images = pictures(*shape, count=2)
    draw = torch.Generator().manual_seed(0)
    weights, direction = (torch.randn(images.shape, generator=draw) for _ in range(2))
    target = before_a_network(75, shape)
    asked = images.clone().requires_grad_()
    (target.before(asked) * weights).sum().backward()
    for n in range(len(images)):
        moved = slow_derivative(images[n].numpy(), direction[n].numpy(), 75)
        expected = (moved * weights[n].numpy()).sum()
        found = (asked.grad[n] * direction[n]).sum().item()
        assert found == pytest.approx(expected, rel=1e-3)


def test_what_rounds_to_nothing_is_given_less_gradient():
    """A flat image holds no detail. Of a pattern that is coded away little comes back."""
    flat = torch.full((1, 1, 8, 8), 128 / 255).requires_grad_()
    target = before_a_network(75, (1, 8, 8))
    board = torch.tensor([[(-1.0) ** (y + x) for x in range(8)] for y in range(8)])[None, None]
    for pattern, share in ((board, 0.2), (torch.ones_like(board), 0.2)):
        (gradient,) = torch.autograd.grad((target.before(flat) * pattern).sum(), flat)
        torch.testing.assert_close(gradient, share * pattern, rtol=1e-4, atol=1e-5)
    bright = torch.full((1, 1, 8, 8), 1.0).requires_grad_()
    (gradient,) = torch.autograd.grad(target.before(bright).sum(), bright)
    torch.testing.assert_close(gradient, torch.ones_like(gradient), rtol=1e-4, atol=1e-5)
