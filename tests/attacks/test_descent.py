import pytest
import torch
from gated_toys import NONE, PSNR35, LinearGates, begin, frozen, pictures

from attacks.best_image import BestImage
from attacks.box import Clamp, Point
from attacks.descent import Descent, Direction, StepRule
from attacks.optimizer import Sgd
from bench.api import View

SHAPE = (3, 4, 4)


class Brighten(StepRule):
    """Raises every value by 1 a step, notes whom it was asked about, and does not save on
    evaluations.
    """

    def __init__(self, view: View, forwards: int = 1) -> None:
        self.view, self.forwards, self.seen = view, forwards, []

    def evaluate(self, point: Point, rows: torch.Tensor, share: torch.Tensor) -> Direction:
        self.seen.append((rows.tolist(), [round(v, 3) for v in share.tolist()]))
        for _ in range(self.forwards):
            output = self.view(point.image, rows)
        return Direction(output, torch.zeros(len(rows)), -torch.ones_like(point.free))


def setting(
    thresholds: float,
    budget: int,
    steps: int | str,
    count: int = 3,
    cost: int = 1,
    verify: bool = False,
    **more,
):
    target = frozen(
        LinearGates(torch.full((1, 48), 100 / 48), torch.tensor([-100 * thresholds]), SHAPE)
    )
    clean = torch.full((count, *SHAPE), 51 / 255)
    view, job = begin(target, clean, budget, more.pop("threat", NONE))
    kept = BestImage(view, clean, job.threat, "best", verify=verify)
    return Descent(view, job, clean, Clamp(), Sgd(1 / 255), kept, steps, cost, **more), view


@pytest.mark.parametrize(
    ("budget", "cost", "verify"),
    [(0, 1, False), (7, 1, False), (7, 3, False), (7, 3, True), (20, 5, True)],
)
def test_the_budget_is_used_up_and_never_overdrawn(budget, cost, verify):
    descent, view = setting(2.0, budget, "budget", cost=cost, verify=verify)
    rule = Brighten(view, forwards=cost)
    descent.run(rule)
    descent.best.finish()
    assert (
        len(rule.seen) == (budget - verify) // cost
        if budget >= cost + verify
        else len(rule.seen) == 0
    )
    assert bool((view.left >= 0).all())
    assert bool((view.left < cost + 2).all())


def test_steps_count_evaluations_and_the_last_step_is_not_taken():
    descent, view = setting(2.0, 100, 4)
    rule = Brighten(view)
    end = descent.run(rule)
    assert view.ledger.used.tolist() == [4, 4, 4]
    assert torch.allclose(end * 255, torch.full_like(end, 54.0))
    assert [share[0] for _, share in rule.seen] == [0, 0.333, 0.667, 1]


def test_an_attack_that_underrates_its_cost_is_stopped_by_the_view():
    descent, view = setting(2.0, 7, "budget", cost=1)
    end = descent.run(Brighten(view, forwards=2))  # really 2 a step
    assert bool((view.left >= 0).all())
    assert torch.allclose(end * 255, torch.full_like(end, 54.0))


def test_rows_leave_at_the_ceiling_and_the_others_go_on_undisturbed():
    """Images start 0, 2 and 30 levels below the gate's threshold."""
    descent, view = setting(80.5 / 255, 200, 12, stop_at_ceiling=True)
    clean = torch.stack([torch.full(SHAPE, level / 255) for level in (81, 78, 51)])
    descent.clean.copy_(clean)
    descent.best.clean.copy_(clean)
    rule = Brighten(view)
    end = descent.run(rule)
    assert [rows for rows, _ in rule.seen][:5] == [[0, 1, 2], [1, 2], [1, 2], [1, 2], [2]]
    assert view.ledger.used.tolist() == [1, 4, 12]
    assert (end.flatten(1).mean(1) * 255).round().tolist() == [
        82,
        82,
        62,
    ]  # one step past the last look
    assert descent.best.macs.tolist() == [110, 110, 10]


def test_iterates_stay_in_the_ball():
    descent, view = setting(2.0, 100, 60, threat=PSNR35)
    end = descent.run(Brighten(view))
    distance = (255 * (end - descent.clean)).square().flatten(1).sum(1)
    bound = PSNR35.bound(48)
    assert bound is not None
    assert distance.tolist() == pytest.approx([bound] * 3, rel=1e-4)


def test_only_the_rows_asked_for_move():
    descent, view = setting(2.0, 100, 3)
    end = descent.run(Brighten(view), rows=torch.tensor([1]))
    assert (end.flatten(1).mean(1) * 255).round().tolist() == [51, 53, 51]
    assert view.ledger.used.tolist() == [0, 3, 0]


def test_share_follows_what_each_image_has_spent():
    clean = pictures(1, SHAPE)
    target = frozen(LinearGates(torch.zeros(1, 48), torch.tensor([-1.0]), SHAPE))
    view, job = begin(target, clean, 11)
    descent = Descent(
        view,
        job,
        clean,
        Clamp(),
        Sgd(0.0),
        BestImage(view, clean, NONE, "last", verify=False),
        "budget",
        2,
    )
    rule = Brighten(view, forwards=2)
    descent.run(rule)
    assert [share[0] for _, share in rule.seen] == [0, 0.222, 0.444, 0.667, 0.889]


def test_the_iterate_after_the_last_step_is_seen():
    """A budget that pays for one step of GradAuto and two forwards more shows the image that the
    step led to.
    """
    from fractions import Fraction

    import torch

    from attacks.gradauto import GradAuto
    from bench.api import Job, Threat
    from bench.evaluation.view import TargetView
    from bench.testing import ToyTarget, sample_images

    target = ToyTarget().eval().requires_grad_(False)
    clean = sample_images(target.image_shape)
    threat = Threat("linf", Fraction(32, 255))
    view = TargetView.of(target, clean, 7)
    GradAuto().perturb(
        view,
        clean.clone(),
        torch.zeros(len(clean), dtype=torch.int64),
        Job(threat, 7, tuple("abcdef")),
    )
    asked = view.ledger.forwards[view.ledger.backwards > 0]
    assert len(asked) > 0
    assert bool((asked >= 2).all())
