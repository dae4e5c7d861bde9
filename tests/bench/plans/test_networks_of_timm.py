"""What a plan says of networks of timm, before anything runs."""

import pytest

from bench.errors import PlanError
from bench.plans.resolve import load_plan


def plan(tmp_path, target):
    path = tmp_path / "plan.toml"
    head = (
        '[protocol]\ndataset = "imagenet:val"\nimages = 1\nthreat = { norm = "psnr", floor = 35 }\n'
    )
    path.write_text(
        f'schema = 1\n{head}budget = 1\n[[target]]\n{target}\n[[attack]]\nuse = "identity"\n'
    )
    return path


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (
            'use = "resnet18"\nweights = "random:0"',
            r"resnet18 is a plain network of timm.*puts exits on it",
        ),
        (
            'use = "sdn"\nweights = "random:0"\nparams = { backbone = "xcit_nano_12_p16_224" }',
            "no map of",
        ),
        (
            'use = "sdn"\nweights = "random:0"\nparams = { backbone = "resnt18" }',
            "did you mean resnet18",
        ),
        (
            'use = "sdn"\nweights = "random:0"\nparams = { backbone = "resnet-21" }',
            "did you mean 20 or 26",
        ),
        (
            'use = "cascade"\nweights = "random:0"\n'
            'params = { networks = ["vit_tiny_patch16_224"], sizes = [64, 224] }',
            "takes no images of 64 pixels",
        ),
        ('use = "cascade"\nweights = "random:0"\nparams = { sizes = [32] }', "at least two stages"),
    ],
    ids=["bare-model", "tokens", "misspelt", "no-such-depth", "fixed-size", "one-stage"],
)
def test_networks_that_cannot_be_made_are_refused(tmp_path, target, told):
    with pytest.raises(PlanError, match=told):
        load_plan(plan(tmp_path, target))


@pytest.mark.parametrize(
    "target",
    [
        'use = "sdn"\nweights = "random:0"\nparams = { backbone = "test_efficientnet" }',
        'use = "cascade"\nweights = "random:0"\nparams = { networks = ["test_efficientnet"], sizes = [96, 160] }',
        'use = "cascade"\nweights = "random:0"',
    ],
    ids=["exits", "cascade", "ours"],
)
def test_networks_that_can_be_made_pass(tmp_path, target):
    assert len(load_plan(plan(tmp_path, target)).cells) == 1
