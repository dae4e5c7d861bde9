"""Onward begins where it is told, and keeps what it does not beat."""

from dataclasses import replace

import pytest
import torch
from gated_toys import PSNR35, ConvGates, begin, frozen, pictures

from attacks.onward import Onward
from attacks.pry import Pry
from bench.image import difference, inside, settle, to_float, to_grid

ROWS = torch.arange(6)


@pytest.fixture(scope="module")
def scene():
    """A target, images, and saved images that a short attack of another kind found."""
    target, images = frozen(ConvGates()), to_float(to_grid(pictures(6)))
    view, job = begin(target, images, 30, PSNR35)
    found = Pry().perturb(view, images, torch.zeros(6, dtype=torch.int64), job)
    return target, images, to_float(settle(found, to_grid(images), PSNR35))


def macs(target, images):
    with torch.no_grad():
        return target.macs(target(images).decisions)


@pytest.mark.parametrize("budget", [5, 40])
def test_no_image_gets_cheaper_than_the_one_it_began_at(scene, budget):
    target, images, start = scene
    view, job = begin(target, images, budget, PSNR35)
    found = Onward(start="0123456789").perturb(
        view, images, torch.zeros(6, dtype=torch.int64), replace(job, start=start)
    )
    saved = settle(found, to_grid(images), PSNR35)
    assert bool(inside(difference(saved, to_grid(images)), PSNR35).all())
    assert bool((macs(target, to_float(saved)) >= macs(target, start)).all())


def test_it_looks_at_the_images_it_begins_at_first(scene):
    target, images, start = scene
    view, job = begin(target, images, 5, PSNR35)
    Onward().perturb(view, images, torch.zeros(6, dtype=torch.int64), replace(job, start=start))
    first = [view.ledger.trace(row)[0][1] for row in range(6)]
    assert first == macs(target, start).tolist()


def test_without_images_to_begin_at_it_begins_at_the_clean_ones(scene):
    target, images, _ = scene
    view, job = begin(target, images, 5, PSNR35)
    Onward().perturb(view, images, torch.zeros(6, dtype=torch.int64), job)
    assert [view.ledger.trace(row)[0][1] for row in range(6)] == macs(target, images).tolist()
