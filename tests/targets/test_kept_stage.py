"""Gates on a static twin: what is kept, what is trained, and what the new weights hold."""

import pytest
import torch
from gated_networks import natural

from bench.api import Moment
from bench.errors import PlanError
from bench.training.inputs import borrow
from bench.training.results import untouched
from bench.weights import find, read_state
from targets.recipes.aig import GatedStage
from targets.recipes.dynconv import MaskedStage

TWIN = "resnet-20-static@digits-m"
STAGES = {"aig": GatedStage, "dynconv": MaskedStage}


def test_the_convolutions_of_later_groups_are_kept_block_by_block():
    stage = GatedStage(depth=14, kept_from=TWIN)
    assert dict(stage.borrowed()) == {
        f"group{group}_layer{index}.conv": TWIN for group in (2, 3) for index in (0, 1)
    }
    assert len(GatedStage(kept_from=TWIN, first_kept=1).borrowed()) == 9
    assert not GatedStage().borrowed()
    with pytest.raises(PlanError, match="first_kept = 4: a group, from 1 to 3"):
        GatedStage(first_kept=4)
    with pytest.raises(PlanError, match="gate_lr = 0"):
        MaskedStage(gate_lr=0)


def test_what_is_borrowed_has_the_names_of_the_twin(tmp_path):
    parts, tensors = borrow(GatedStage(kept_from=TWIN), 10, tmp_path)
    state = read_state(find(TWIN))
    assert len(tensors) == 12
    assert all(torch.equal(value, state[name]) for name, value in tensors.items())
    assert all(part.inside == part.prefix for part in parts)


@pytest.mark.parametrize("name", STAGES)
def test_a_step_leaves_what_is_kept_and_rounding_the_rest(name, tmp_path):
    stage = STAGES[name](kept_from=TWIN)
    parts, kept = borrow(stage, 10, tmp_path)
    torch.manual_seed(0)
    target = stage.build(10).train()
    target.load_state_dict(kept, strict=False)
    stage.begin(target)
    groups = stage.groups(target)
    assert groups[1]["scale"] == stage.gate_lr
    assert sum(p.numel() for p in groups[0]["params"]) < 0.1 * sum(
        p.numel() for p in target.parameters()
    )
    before = {key: value.clone() for key, value in target.state_dict().items()}
    optimizer = torch.optim.SGD(groups, lr=0.1)
    moment = Moment(0.1, torch.Generator().manual_seed(0), (), None)
    stage.loss(target, natural(4), torch.arange(4), moment)[0].backward()
    optimizer.step()
    stage.finish(target, None)
    after = target.state_dict()
    assert all(torch.equal(after[key], value) for key, value in kept.items())
    assert untouched(parts, kept, target) == parts
    for key in ("conv1.weight", "group3_layer0.bn1.weight", "group2_gate0.fc1.weight"):
        if key in after:
            assert not torch.equal(after[key], before[key])
            assert torch.equal(after[key], after[key].half().float())
    assert torch.equal(target.mean, stage.build(10).mean), "what no file holds is not rounded"
