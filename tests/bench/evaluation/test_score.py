"""Random targets: seeds, means over draws, and a control that stays at exactly nothing."""

import torch

from bench.evaluation.outputs import freeze
from bench.evaluation.score import score
from bench.evaluation.seeds import seeds_of, typical, varied
from bench.testing import ToyTarget, sample_images
from targets.defenses.smoothing import RandomisedSmoothing


def smoothed(draws=7, sigma=0.2):
    target = RandomisedSmoothing(sigma=sigma, draws=draws).wrap(ToyTarget())
    freeze(target)
    return target


def test_macs_are_the_mean_over_fresh_draws_rounded():
    target, images, ids = smoothed(), sample_images((3, 8, 8)), [f"x{i}" for i in range(6)]
    found = score(target, images, ids, 0)
    costs = []
    for draw in range(7):
        with torch.no_grad(), target.evaluating(seeds=seeds_of(ids, 0, "score", draw)):
            costs.append(target.macs(target(images).decisions))
    expected = torch.stack(costs).double().mean(0)
    assert bool(((found.macs - expected).abs() <= 0.5).all())
    assert len(torch.stack(costs).unique()) > 1


def test_an_unchanged_image_scores_the_same_and_company_does_not_matter():
    target, images, ids = smoothed(), sample_images((3, 8, 8)), [f"x{i}" for i in range(6)]
    first, second = score(target, images, ids, 0), score(target, images.clone(), ids, 0)
    assert torch.equal(first.macs, second.macs)
    alone = score(target, images[2:3], ids[2:3], 0)
    assert alone.macs.tolist() == first.macs[2:3].tolist()
    assert not torch.equal(first.macs, score(target, images, ids, 1).macs)


def test_a_target_that_decides_alike_is_evaluated_once():
    calls = []

    class Counting(ToyTarget):
        def forward(self, images, decisions=None):
            calls.append(len(images))
            return super().forward(images, decisions)

    target = Counting()
    freeze(target)
    score(target, sample_images((3, 8, 8)), ["a"] * 6, 0)
    assert calls == [6]


def test_seeds_differ_by_image_purpose_and_step():
    first = seeds_of(["a", "b"], 0, "score")
    assert (
        len(
            {
                *first.tolist(),
                *seeds_of(["a", "b"], 0, "attack").tolist(),
                *seeds_of(["a", "b"], 1, "score").tolist(),
            }
        )
        == 6
    )
    assert not torch.equal(varied(first, 1), varied(first, 2))
    assert bool((varied(first, 12345) >= 0).all())


def test_the_typical_draw_is_of_median_cost():
    target = smoothed(draws=3, sigma=0.4)
    images = sample_images((3, 8, 8))
    draws = []
    for seed in range(3):
        with torch.no_grad(), target.evaluating(seeds=torch.full((6,), seed)):
            draws.append(target(images))
    macs = [target.macs(draw.decisions) for draw in draws]
    found = typical(draws, macs)
    assert torch.equal(target.macs(found.decisions), torch.stack(macs).median(0).values)
    torch.testing.assert_close(found.margins, torch.stack([draw.margins for draw in draws]).mean(0))
