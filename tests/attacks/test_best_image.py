import torch
from gated_toys import NONE, PSNR35, LinearGates, begin, frozen, pictures

from attacks.best_image import BestImage
from bench.image import settle, to_float, to_grid

SHAPE = (3, 4, 4)


def bright(threshold: float) -> LinearGates:
    """One gate that opens when the mean of the image exceeds `threshold`."""
    return frozen(
        LinearGates(torch.full((1, 48), 100 / 48), torch.tensor([-100 * threshold]), SHAPE)
    )


def grey(*levels: float) -> torch.Tensor:
    return torch.stack([torch.full(SHAPE, level / 255) for level in levels])


def offers(rule: str, table: list[tuple[float, int, float]]) -> BestImage:
    """An best after iterates of one grey image: (level, macs, loss) in order."""
    clean = grey(100)
    view, _ = begin(bright(0.9), clean, 100)
    kept = BestImage(view, clean, NONE, rule, verify=False)
    for level, macs, loss in table:
        kept.offer(torch.tensor([0]), grey(level), torch.tensor([macs]), torch.tensor([loss]))
    return kept


def test_which_iterate_each_rule_keeps():
    table = [
        (101, 10, 5.0),
        (105, 30, 1.0),
        (104, 30, 2.0),
        (106, 30, 9.0),
        (102, 20, 0.5),
        (103, 20, 7.0),
    ]
    kept = {
        rule: round(float(offers(rule, table).finish().mean() * 255))
        for rule in ("best", "first", "last", "loss")
    }
    assert kept == {"best": 104, "first": 105, "last": 103, "loss": 102}


def test_nothing_evaluated_means_the_clean_image():
    assert torch.equal(offers("best", []).finish(), grey(100))


def test_an_iterate_that_rounding_closes_is_not_believed():
    """The gate opens at a mean of 100.3 levels: 100.4 opens it, and is saved as 100."""
    clean = grey(100)
    target = bright(100.3 / 255)
    for verify, macs in ((False, 110), (True, 10)):
        view, _ = begin(target, clean, 100)
        kept = BestImage(view, clean, NONE, "best", verify=verify)
        rows = torch.tensor([0])
        for level in (100.0, 100.4):
            image = grey(level)
            kept.offer(rows, image, view.price(view(image, rows).decisions), torch.tensor([1.0]))
        saved = to_float(to_grid(kept.finish()))
        assert int(kept.macs) == macs
        assert (
            int(target.macs(target(saved).decisions)) == 10
        )  # what was believed unverified is not there
        assert kept.failures == int(verify)


def test_verified_images_are_saved_ones_inside_the_threat():
    clean = pictures(3, (3, 8, 8))
    target = frozen(LinearGates(torch.full((1, 192), 1.0), torch.tensor([0.0]), (3, 8, 8)))
    view, job = begin(target, clean, 100, PSNR35)
    kept = BestImage(view, clean, job.threat, "best", verify=True)
    moved = clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(3)
    kept.offer(rows, moved, torch.full((3,), 110), torch.ones(3))
    assert torch.equal(kept.finish(), to_float(settle(moved, to_grid(clean), PSNR35)))
    assert view.ledger.used.tolist() == [1, 1, 1]  # one forward each for the verification


def test_an_iterate_on_the_grid_needs_no_second_look():
    clean = grey(100, 100)
    view, job = begin(bright(0.3), clean, 100)
    kept = BestImage(view, clean, job.threat, "best", verify=True)
    kept.offer(torch.tensor([0, 1]), clean, torch.tensor([110, 110]), torch.zeros(2))
    assert kept.macs.tolist() == [110, 110]
    assert view.ledger.used.tolist() == [0, 0]


def test_failures_are_asked_again_ever_more_rarely_and_the_last_candidate_at_the_end():
    """Thirty hopeful iterates that all round back to the clean image cost a handful of forwards,
    not thirty.
    """
    clean = grey(100)
    view, job = begin(bright(100.3 / 255), clean, 100)
    kept = BestImage(view, clean, job.threat, "best", verify=True)
    row = torch.tensor([0])
    kept.offer(row, clean, torch.tensor([10]), torch.zeros(1))
    for _ in range(30):
        kept.offer(row, grey(100.4), torch.tensor([110]), torch.zeros(1))
    assert 3 <= kept.failures <= 6
    assert int(view.ledger.used) == kept.failures
    kept.offer(row, grey(101), torch.tensor([110]), torch.zeros(1))  # still pausing: it waits
    assert kept.reserve == 1
    assert float(kept.finish().mean() * 255) > 100.9
    assert int(kept.macs) == 110


def test_a_spent_budget_keeps_what_is_sure():
    clean = grey(100)
    view, job = begin(bright(100.3 / 255), clean, 0)
    kept = BestImage(view, clean, job.threat, "best", verify=True)
    kept.offer(torch.tensor([0]), grey(100.4), torch.tensor([110]), torch.zeros(1))
    assert torch.equal(kept.finish(), clean)
