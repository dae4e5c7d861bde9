import pytest
import torch
from gated_toys import LINF8, PSNR35, ConvGates, Exits, Halting, begin, frozen, pictures

from attacks.autoenergy import AutoEnergy, AutoEnergySplit, ensemble
from attacks.ilfo import ILFO
from bench.errors import PlanError
from bench.image import difference, inside, to_grid
from bench.plugins import registry
from bench.plugins.parameters import resolve_params


def test_members_are_attacks_of_the_registry_with_parameters_that_exist():
    assert len(AutoEnergy.members) == 8
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


def test_the_ponder_loss_takes_part_only_where_something_halts():
    kinds = {}
    for victim, shape in ((ConvGates, (3, 16, 16)), (Halting, (1, 4, 4)), (Exits, (3, 16, 16))):
        view, _ = begin(frozen(victim()), pictures(1, shape), 10)
        kinds[victim] = [type(member) for member in ensemble(view)]
    assert ILFO in kinds[Halting]
    assert ILFO not in kinds[ConvGates]
    assert ILFO not in kinds[Exits]
    assert len(kinds[ConvGates]) == 6


@pytest.mark.parametrize("threat", [PSNR35, LINF8])
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
