"""What a unit is worth: how far the count moves when its decision alone is turned."""

import pytest
import torch

from bench.testing import ToyTarget
from targets.aig import AIG
from targets.defenses.monitor import Monitored
from targets.dynconv import DynConv
from targets.fbs import FBS
from targets.manidp import ManiDP
from targets.sact import SACT
from targets.skipnet import SkipNet

TARGETS = {
    "toy": ToyTarget,
    "skipnet": SkipNet,
    "sact": SACT,
    "act": lambda: SACT(halting="act"),
    "none": lambda: SACT(halting="none"),
    "manidp": ManiDP,
    "fbs": FBS,
    "aig": AIG,
    "dynconv": DynConv,
    "dynconv-none": lambda: DynConv(masks="none"),
    "dynconv-bottlenecks": lambda: DynConv(depth=50, layout="imagenet"),
    "monitored": lambda: Monitored(ManiDP(), torch.ones(672), 0.0, 1.0),
}


def turned(target, decisions, units):
    """The same by definition, one unit after another."""
    before, found = target.macs(decisions), []
    for unit in units:
        other = decisions.clone()
        other[:, unit] ^= True
        found.append((target.macs(other) - before).abs())
    return torch.stack(found, 1)


@pytest.mark.parametrize("name", list(TARGETS))
def test_it_is_what_turning_one_decision_moves(name):
    target, draw = TARGETS[name](), torch.Generator().manual_seed(0)
    count = len(target.units)
    shares = torch.tensor([0.0, 0.02, 0.3, 0.9, 1.0])[:, None]
    decisions = torch.rand(5, count, generator=draw) < shares
    found = target.marginal_macs(decisions)
    assert found.shape == (5, count)
    assert found.dtype == torch.int64
    units = torch.randperm(count, generator=draw)[:200].tolist()
    if units:
        assert torch.equal(found[:, units], turned(target, decisions, units))


def test_one_open_position_is_worth_its_first_score_too():
    target = SACT()
    decisions = torch.zeros(1, len(target.units), dtype=torch.bool)
    decisions[0, 100] = True
    assert torch.equal(
        target.marginal_macs(decisions)[:, [100, 101, 400]],
        turned(target, decisions, [100, 101, 400]),
    )
