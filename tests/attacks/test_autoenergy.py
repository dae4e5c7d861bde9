import pytest
import torch
from gated_toys import LINF8, PSNR35, ConvGates, begin, frozen, pictures

from attacks.autoenergy import AutoEnergy, AutoEnergyQuick, AutoEnergySplit, ensemble
from bench.errors import PlanError
from bench.image import difference, inside, to_grid
from bench.plugins import registry
from bench.plugins.parameters import resolve_params


def test_members_are_attacks_of_the_registry_with_parameters_that_exist():
    for use, params in AutoEnergy.members:
        name, _, preset = use.partition(":")
        facts = registry.find("attack", name).facts()
        assert not preset or preset in facts.presets
        resolve_params(
            facts.parameters,
            {**facts.presets.get(preset, {}), **params},
            "members",
            facts.constants.get("ranges"),
        )


def test_five_white_boxes_and_one_black_box_at_most():
    blind = [use for use, _ in AutoEnergy.members if _class(use).access == "macs"]
    assert len(blind) == 1
    assert len(AutoEnergy.members) - len(blind) <= 5
    assert AutoEnergyQuick.members == AutoEnergy.members[:2]


def test_members_of_the_split_leave_out_the_one_that_ignores_a_defense():
    view, _ = begin(frozen(ConvGates()), pictures(1), 10)
    found = ensemble(view)
    assert len(found) == len(AutoEnergy.members) - 1
    assert all(getattr(member, "knows", "defense") == "defense" for member in found)


def _class(use):
    return registry.find("attack", use.partition(":")[0]).load()


@pytest.mark.parametrize("threat", [PSNR35, LINF8], ids=str)
def test_split_spends_one_budget_and_beats_none_of_its_own_candidates(threat):
    target, images = frozen(ConvGates()), pictures(8)
    view, job = begin(target, images, 120, threat)
    adversarial = AutoEnergySplit().perturb(view, images, torch.zeros(8, dtype=torch.int64), job)
    assert bool((view.left >= 0).all())
    assert bool(inside(difference(to_grid(adversarial), to_grid(images)), threat).all())
    clean, won = (target.macs(target(x).decisions).double() for x in (images, adversarial))
    assert bool((won >= clean).all())
    assert float(won.mean()) > float(clean.mean())
    members = len(ensemble(view))
    part = 120 // members
    for member in ensemble(view):
        alone, alone_job = begin(target, images, part - 1, threat)
        object.__setattr__(alone_job, "budget", part - 1)
        candidate = member.perturb(alone, images, torch.zeros(8, dtype=torch.int64), alone_job)
        saved = to_grid(candidate).float() / 255
        assert bool((target.macs(target(saved).decisions) <= won).all()), type(member).__name__


def test_the_whole_never_runs_by_itself():
    view, job = begin(frozen(ConvGates()), pictures(1), 10)
    with pytest.raises(PlanError, match="combined"):
        AutoEnergy().perturb(view, pictures(1), torch.zeros(1, dtype=torch.int64), job)
