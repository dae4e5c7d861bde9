"""Released states of A-ViT and DynamicViT give here what an independent rewriting says of them."""

import pytest
import torch
from original_tokens import SIZES, Original, predictor_state, random_state

from bench.errors import WeightsError
from targets.avit import AViT
from targets.dynamicvit import DynamicViT, FixedTokens

WIDTH, HEADS = SIZES["tiny"]
STAGES = (3, 6, 9)
ODDS = (3.1, 12.5, -2.7)
"""In favour of keeping, so that every stage drops about a third of these random tokens."""


def image():
    draw = torch.Generator().manual_seed(4)
    return torch.rand((1, 3, 224, 224), generator=draw, dtype=torch.float64)


def built(kind, state, **parameters):
    target = kind(backbone="deit_tiny_patch16_224", num_classes=10, **parameters).eval().double()
    translated = kind.from_official({name: value.float() for name, value in state.items()})
    target.load_state_dict({name: value.double() for name, value in translated.items()})
    return target.requires_grad_(False)


def single(state):
    """The weights that survive the file's single precision."""
    return {name: value.float().double() for name, value in state.items()}


@pytest.mark.slow  # a whole network for ImageNet
def test_a_released_avit_halts_token_by_token_as_the_rewriting_does():
    state = single(random_state(WIDTH, 12, 10, seed=1))
    target = built(AViT, state, gate_scale=2.0, gate_center=2.0)
    picture = image()
    logits, sums, ran = Original(state, HEADS).halt(((picture - target.mean) / target.std)[0], 2, 2)
    for output in (target(picture), target.execute(picture)):
        torch.testing.assert_close(output.logits[0], logits, rtol=1e-8, atol=1e-8)
        decisions = output.decisions.view(11, 197)
        assert torch.equal(decisions, ran)
        torch.testing.assert_close(output.margins.view(11, 197), 0.99 - sums, rtol=1e-8, atol=1e-8)
    assert 0.1 < ran.double().mean() < 0.9
    assert not bool(ran[-1, 0])
    assert bool(ran[0, 0])


@pytest.mark.slow  # a whole network for ImageNet
def test_a_released_dynamicvit_drops_by_threshold_as_the_rewriting_does():
    state = single({**random_state(WIDTH, 12, 10, seed=2), **predictor_state(WIDTH, ODDS, seed=3)})
    target = built(DynamicViT, state, threshold=0.4)
    picture = image()
    original = Original(state, HEADS)
    logits, seen = original.drop(((picture - target.mean) / target.std)[0], STAGES, 0.4)
    for output in (target(picture), target.execute(picture)):
        torch.testing.assert_close(output.logits[0], logits, rtol=1e-8, atol=1e-8)
        margins, decisions = output.margins.view(3, 196), output.decisions.view(3, 196)
        for stage, (there, logs, kept) in enumerate(seen):
            torch.testing.assert_close(margins[stage, there], logs.exp() - 0.4)
            assert decisions[stage].nonzero().flatten().tolist() == kept
    counts = [len(kept) for _, _, kept in seen]
    assert 196 > counts[0] > counts[1] > counts[2] > 0


@pytest.mark.slow  # a whole network for ImageNet
def test_a_released_dynamicvit_keeps_its_fixed_numbers_as_the_rewriting_does():
    state = single({**random_state(WIDTH, 12, 10, seed=2), **predictor_state(WIDTH, ODDS, seed=3)})
    target = built(FixedTokens, state)
    picture = image()
    original = Original(state, HEADS)
    counts = [137, 96, 67]
    logits, seen = original.drop(((picture - target.mean) / target.std)[0], STAGES, counts)
    for output in (target(picture), target.execute(picture)):
        torch.testing.assert_close(output.logits[0], logits, rtol=1e-8, atol=1e-8)
        decisions = output.decisions.view(3, 196)
        for stage, (_, _, kept) in enumerate(seen):
            assert decisions[stage].nonzero().flatten().tolist() == kept
        assert decisions.sum(1).tolist() == counts
    assert target.floor == target.ceiling


def test_what_is_no_released_state_is_refused_by_name():
    state = random_state(WIDTH, 12, 10, seed=1)
    with pytest.raises(WeightsError, match=r"missing: net\.blocks\.3\.attn\.proj\.bias"):
        AViT.from_official(
            {name: value for name, value in state.items() if name != "blocks.3.attn.proj.bias"}
        )
    with pytest.raises(WeightsError, match=r"unexpected: net\.extra"):
        AViT.from_official({**state, "extra": torch.zeros(1)})
    with pytest.raises(WeightsError, match="score_predictor"):
        DynamicViT.from_official(state)
    with pytest.raises(WeightsError, match="pos_embed"):
        AViT.from_official({"conv1.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="no DeiT"):
        AViT.from_official(random_state(64, 3, 10, seed=1))


@pytest.mark.parametrize(
    ("size", "width", "macs"),
    [("tiny", 192, 1_258_000_000), ("small", 384, 4_608_000_000)],
    ids=["deit-tiny", "deit-small"],
)
def test_the_ceiling_is_the_published_cost(size, width, macs):
    """1.258 and 4.608 billion, the constants of SlowFormer's metric."""
    target = AViT(**AViT.presets[f"deit-{size}"])
    assert target.width == width
    assert target.ceiling == pytest.approx(macs, rel=5e-4)
