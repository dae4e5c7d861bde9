"""Matrix products written as something else, and honest operators that only look like them."""

import pytest
import torch
import torch.nn.functional as F

from bench.errors import ContractBroken
from bench.evaluation.witness import Witness

ROWS, VALUES = 4, 36
ELSEWHERE = torch.rand(ROWS, VALUES)
PRICES = torch.arange(VALUES)


def summed(run):
    """What a sum of products is called that `run(image, weights)` adds up."""
    torch.manual_seed(0)
    image, weights = torch.rand(1, VALUES), torch.rand(ROWS, VALUES)
    with torch.no_grad(), Witness(image, [weights]) as witness:
        run(image, weights)
    assert not witness.unknown
    return witness.summed


def pair(image, weights):
    return torch.stack([image.expand(ROWS, VALUES), weights])


def spread(image):
    return image.expand(ROWS, VALUES).reshape(1, ROWS * VALUES)


def batch_norm(image, weights):
    scale = weights.reshape(-1)
    found = F.batch_norm(spread(image), torch.zeros_like(scale), torch.ones_like(scale), scale)
    return found.view(ROWS, VALUES).sum(1)


def statistics(image, weights):
    return F.batch_norm(spread(image), torch.zeros(144), weights.reshape(-1)).view(4, 36).sum(1)


def group_norm(image, weights):
    return F.group_norm(spread(image), 1, weights.reshape(-1)).view(ROWS, VALUES).sum(1)


def layer_norm(image, weights):
    return F.layer_norm(image.expand(ROWS, VALUES), (ROWS, VALUES), weights).sum(1)


def prelu(image, weights):
    return F.prelu(-spread(image), weights.reshape(-1)).view(ROWS, VALUES).sum(1)


def gated(image, weights):
    return F.glu(torch.cat([image.expand(ROWS, VALUES), weights.logit()]), 0).sum(1)


def sampled(image, weights):
    pixels = F.pad(image.view(VALUES, 1, 1, 1), (1, 0))
    where = torch.stack([weights.t(), torch.zeros(VALUES, ROWS)], -1).view(VALUES, ROWS, 1, 2)
    return F.grid_sample(pixels, where, align_corners=True).view(VALUES, ROWS).sum(0)


def padded(image, weights):
    rows = F.pad(image.view(1, 1, 1, VALUES), (0, 0, 0, ROWS - 1), mode="replicate")
    return (rows.view(ROWS, VALUES) * (weights + 0)).exp().sum(1)


def put(image, weights):
    rows = torch.zeros(ROWS, VALUES).index_put((torch.arange(ROWS),), image[0])
    return (rows * weights).exp().sum(1)


def written(image, weights):
    rows = image.expand(ROWS, VALUES)
    rows = torch.zeros(ROWS, VALUES).index_copy(0, torch.arange(ROWS), rows)
    return (rows * weights).exp().sum(1)


def filled(image, weights):
    memory = torch.zeros(2, ROWS, VALUES)
    memory[0] = weights
    memory[1] = image
    return memory.prod(0).sum(1)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(batch_norm, id="batch-norm"),
        pytest.param(statistics, id="batch-norm-statistics"),
        pytest.param(group_norm, id="group-norm"),
        pytest.param(layer_norm, id="layer-norm"),
        pytest.param(prelu, id="prelu"),
        pytest.param(gated, id="glu"),
        pytest.param(sampled, id="grid-sample"),
        pytest.param(padded, id="replicated"),
        pytest.param(put, id="index-put"),
        pytest.param(written, id="index-copy"),
        pytest.param(filled, id="prod-of-memory"),
        pytest.param(lambda x, w: pair(x, w).prod(0).sum(1), id="prod"),
        pytest.param(lambda x, w: pair(x, w).cumprod(0)[1].sum(1), id="cumprod"),
        pytest.param(lambda x, w: pair(x, w).var(0).sum(1), id="variance-of-pairs"),
        pytest.param(lambda x, w: pair(x, w).sum(0).square().sum(1), id="sum-of-pairs"),
    ],
)
def test_products_of_broadcast_operands_by_another_name(run):
    assert "a product of broadcast operands" in summed(run)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda x, w: (x[0] * w[0].clone()).sum(), id="cloned"),
        pytest.param(lambda x, w: (x[0] * (2 * w[0]).roll(1)).sum(), id="computed-from-weights"),
        pytest.param(lambda x, w: (x[0] * ELSEWHERE[0]).sum(), id="held-elsewhere"),
        pytest.param(lambda x, w: torch.addcmul(x[0] - x[0], x[0], w[1]).sum(), id="addcmul"),
        pytest.param(lambda x, w: (x[0] * w[0]).cumsum(0)[-1], id="cumulated"),
        pytest.param(
            lambda x, w: F.avg_pool1d((x * w[:1]).view(1, 1, VALUES), VALUES), id="pooled"
        ),
        pytest.param(lambda x, w: torch.stack([x[0], w[0]]).prod(0).sum(), id="prod-of-two"),
    ],
)
def test_dot_products_with_weights_wherever_those_come_from(run):
    assert "a product with weights" in summed(run)


def halting(image, weights):
    """Adaptive computation time: chances to have come so far, over a few steps."""
    steps = torch.stack([image[:, i].sigmoid() for i in range(5)], 1)
    return ((1 - steps).cumprod(1) * steps).sum(1)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(
            lambda x, w: (F.interpolate(x[None], scale_factor=2.0) * x.mean().sigmoid()).mean(),
            id="enlarged-and-scaled",
        ),
        pytest.param(
            lambda x, w: F.batch_norm(
                x.view(1, 4, 9), torch.zeros(4), torch.ones(4), w[0, :4], w[1, :4]
            ).mean(2),
            id="batch-norm",
        ),
        pytest.param(
            lambda x, w: F.layer_norm(x.view(9, 4), (4,), w[0, :4], w[1, :4]).mean(0),
            id="layer-norm",
        ),
        pytest.param(lambda x, w: F.glu(torch.cat([x, x + 1], 1), 1).mean(), id="glu"),
        pytest.param(lambda x, w: (x.view(9, 4) * w[0, :4]).mean(0), id="layer-scale"),
        pytest.param(lambda x, w: torch.stack([x, x * 2]).sum(0).square().sum(), id="branches"),
        pytest.param(lambda x, w: (x * torch.ones(1, VALUES)).sum(), id="plain-mask"),
        pytest.param(
            lambda x, w: ((x > 0.5).to(torch.int64) * PRICES).sum(), id="prices-of-decisions"
        ),
        pytest.param(halting, id="halting"),
    ],
)
def test_scales_and_sums_of_honest_networks_are_free(run):
    assert not summed(run)


def test_operators_that_run_functions_are_named():
    image = torch.rand(1, VALUES)
    with (
        torch.no_grad(),
        Witness(image),
        pytest.raises(ContractBroken, match="uses cond") as caught,
    ):
        torch.ops.higher_order.cond(image.sum() > 0, torch.relu, torch.neg, (image,))
    assert "Python" in caught.value.hint
