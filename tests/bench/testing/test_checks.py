"""The contract tests that plugin authors get find every kind of broken promise, and nothing in what
is sound."""

import re
from dataclasses import replace

import pytest
import torch

from bench.errors import ContractBroken
from bench.testing import (
    ToyTarget,
    check_attack,
    check_target,
    finite_difference,
    problems,
    random_decisions,
    sample_images,
    sample_threats,
)

pytestmark = pytest.mark.usefixtures("plugins")


def test_the_toy_keeps_every_promise():
    findings = check_target(ToyTarget())
    assert problems(findings) == []
    assert len(findings) >= 10


def test_all_toys_keep_every_promise():
    for seed in range(1, 5):
        assert problems(check_target(ToyTarget(seed=seed))) == []


@pytest.mark.parametrize(
    ("lie", "promise", "problem"),
    [
        (
            "macs",
            "macs(decisions) is what ptflops counts, for forced random decisions",
            "ptflops counts 16675",
        ),
        ("floor", "a run can open it", "declared as 7202"),
        ("ceiling", "a run can open it", "declared as 35620"),
        ("mask", "a run can open it", "ptflops counts 35619"),
        ("ignores-forced", "a run can open it", "ran others"),
        (
            "forward-ignores-forced",
            "forward follows forced decisions as execute does",
            "ran others",
        ),
        ("disagrees", "a run can open it", "execute disagrees"),
        (
            "decides-otherwise",
            "a run can open it",
            "but ptflops counts",
        ),
        (
            "random",
            "a run can open it",
            "two forward passes of the same images differ",
        ),
        ("company", "a run can open it", "depends on the others"),
        ("nan", "a run can open it", "not all finite"),
        ("inference", "a run can open it", "inference_mode"),
        ("inference-declared", "a run can open it", "inference_mode"),
        ("lstm", "a run can open it", "but ptflops counts"),
        ("shape", "a run can open it", "margins have shape"),
        (
            "raises",
            "a run can open it",
            "LookupError: no forward today",
        ),
        ("after", "a run can open it", "runs a unit without the one"),
        ("trains", "evaluating changes no weight and no mode", "to train mode"),
        ("drifts", "evaluating changes no weight and no mode", "head.bias"),
    ],
)
def test_each_lie_is_found_where_it_belongs(lie, promise, problem):
    from mischief.targets import Liar

    found = problems(check_target(Liar(lie=lie)))
    assert any(text.startswith(promise) and problem in text for text in found), found


class Detached(ToyTarget):
    def forward(self, images, decisions=None):
        return super().forward(images, decisions).detach()


class Greedy(ToyTarget):
    """Runs a unit that its margin does not ask for."""

    def forward(self, images, decisions=None):
        return super().forward(
            images, torch.ones(len(images), 3, dtype=torch.bool) if decisions is None else decisions
        )

    def execute(self, image, decisions=None):
        return super().execute(
            image, torch.ones(1, 3, dtype=torch.bool) if decisions is None else decisions
        )


class Lazy(ToyTarget):
    """Leaves out a unit that its margin asks for, and whose parent runs."""

    def forward(self, images, decisions=None):
        return super().forward(
            images,
            torch.zeros(len(images), 3, dtype=torch.bool) if decisions is None else decisions,
        )

    def execute(self, image, decisions=None):
        return super().execute(
            image, torch.zeros(1, 3, dtype=torch.bool) if decisions is None else decisions
        )


class Skewed(ToyTarget):
    def _output(self, classes, logits, taken):
        output = super()._output(classes, logits, taken)
        return type(output)(
            output.logits, output.margins, output.logit_margins + 100, output.decisions
        )


class Soft(ToyTarget):
    """Its straight-through mask leaks into the forward value."""

    def forward(self, images, decisions=None):
        output = super().forward(images, decisions)
        return type(output)(
            output.logits * (2 if self.evaluation.mask_grad == "ste" else 1),
            output.margins,
            output.logit_margins,
            output.decisions,
        )


@pytest.mark.parametrize(
    ("made", "promise"),
    [
        (Detached, "margins have gradients"),
        (Greedy, "units want what their margins say"),
        (Lazy, "units want what their margins say"),
        (Skewed, "units want what their margins say"),
        (Soft, "straight-through masks change no forward value"),
    ],
)
def test_subtler_lies(made, promise):
    found = problems(check_target(made()))
    assert any(text.startswith(promise) for text in found), found


@pytest.mark.parametrize("name", ["Still", "Wander", "BlackBox"])
def test_sound_attacks_keep_every_promise(name):
    from mischief import world

    findings = check_attack(getattr(world, name)())
    assert problems(findings) == []
    assert len(findings) == 10, "two promises under each of five threats"


@pytest.mark.parametrize(
    ("deed", "problem"),
    [
        ("raise", "ZeroDivisionError: on purpose"),
        ("nan", "NaN or infinity"),
        ("infinity", "NaN or infinity"),
        ("range", "leave the threat"),
        ("ball", "leave the threat linf<=8/255"),
        ("shape", "expected images of shape"),
        ("type", "list"),
        ("integers", "torch.uint8"),
        ("in-place", "edited in place"),
        ("weights", "head.weight"),
        ("past-the-view", "past its view"),
        ("past-the-view-inside", "past its view"),
        ("lying-images", "leave the threat linf<=8/255"),
        ("past-the-view-by-class", "used the weights"),
        ("past-the-view-by-module", "used the weights"),
        ("past-the-view-in-losses", "used the weights"),
        ("past-the-view-opened", "evaluated the target on 4 images past its view"),
        ("supports-evaluates", "without its weights"),
        ("train", "train mode"),
        ("spend", "BudgetSpent was not caught"),
        ("pass-rows-off", "rows name the image"),
        ("gradients", "one number a row"),
        ("system-exit", "SystemExit: enough"),
        ("supports-lies", "neither None nor a Skip"),
        ("fork", "refuses every threat"),
    ],
)
def test_each_mischief_is_found(deed, problem):
    from mischief.attacks import Mischief

    found = problems(check_attack(Mischief(deed=deed)))
    assert any(problem in text for text in found), found


@pytest.mark.parametrize("deed", ["free-backward", "supports-keeps"])
def test_mischief_that_comes_to_nothing_breaks_no_promise(deed):
    """It fails where it gains anything."""
    from mischief.attacks import Mischief

    assert problems(check_attack(Mischief(deed=deed))) == []


def test_gamblers_and_burglars_are_found():
    from mischief.attacks import Burglar, Gambler

    assert any(
        "two equal calls return different images" in text
        for text in problems(check_attack(Gambler()))
    )
    for door in ("outputs", "gradients", "price"):
        assert any('access "macs"' in text for text in problems(check_attack(Burglar(door=door))))


def test_a_check_leaves_no_damage_to_the_next():
    """An attack that changes the weights under one threat is not blamed again for what the check
    itself put right."""
    from mischief.attacks import Mischief
    from mischief.world import Still

    target = ToyTarget()
    assert problems(check_attack(Mischief(deed="weights"), target))
    assert problems(check_attack(Mischief(deed="train"), target))
    assert problems(check_attack(Still(), target)) == []


def test_samples_are_fixed_and_on_the_grid():
    images = sample_images((3, 8, 8))
    assert images.shape == (6, 3, 8, 8)
    assert torch.equal(images, sample_images((3, 8, 8)))
    assert torch.equal((images * 255).round() / 255, images)
    assert [threat.norm for threat in sample_threats()] == ["linf", "l2", "psnr", "patch", "none"]
    decisions = random_decisions(ToyTarget(), 64)
    assert decisions.dtype == torch.bool
    assert 0.3 < float(decisions.float().mean()) < 0.7


def test_finite_differences_of_the_toy_are_its_gradients():
    target = ToyTarget().double().eval()
    images = sample_images(target.image_shape).double()
    direction = torch.randn(
        images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    inputs = images.clone().requires_grad_()
    (grad,) = torch.autograd.grad(target(inputs).margins.sum(), inputs)
    with torch.no_grad():
        slope = finite_difference(lambda x: target(x).margins.sum(1), images, direction, step=1e-7)
    assert torch.allclose(slope, (grad * direction).flatten(1).sum(1), rtol=1e-4, atol=1e-6)


def test_units_refuse_columns_that_do_not_fit():
    from dataclasses import replace

    from bench.api import Units

    units = Units.gated(["a", "b"], ["x", "x"], [1, 2])
    assert len(units) == 2
    assert units.wanted(torch.tensor([[0.0, 0.1]])).tolist() == [[False, True]], (
        "blocks are wanted strictly above their threshold"
    )
    loose = replace(units, strict=torch.zeros(2, dtype=torch.bool))
    assert loose.wanted(torch.tensor([[0.0, -0.1]])).tolist() == [[True, False]]
    chained = replace(units, after=torch.tensor([-1, 0]))
    assert chained.admissible(torch.tensor([[False, True], [True, True]])).tolist() == [
        [False, False],
        [True, True],
    ]
    for column, value in [
        ("name", ("a",)),
        ("cost", torch.ones(2)),
        ("strict", torch.ones(2)),
        ("after", torch.ones(2)),
    ]:
        with pytest.raises(ContractBroken, match=f"Units.{column}|Units.kind"):
            replace(units, **{column: value})


class _Whole(ToyTarget):
    """Multiplies with 0 instead of leaving out."""

    def execute(self, image, decisions=None):
        return self.forward(image, decisions)


class _Priced(ToyTarget):
    """Forgets the bias of a block, and says a block too many of what always runs."""

    def macs(self, decisions):
        return 7203 + 5 + (9472 - 256) * decisions.to(torch.int64).sum(1)


class _Tuple(ToyTarget):
    def forward(self, images, decisions=None):
        output = super().forward(images, decisions)
        return output.logits, output.margins


class _Cut(ToyTarget):
    def forward(self, images, decisions=None):
        return super().forward(images, decisions).detach()


class _Int(ToyTarget):
    def macs(self, decisions):
        return int(super().macs(decisions).sum())


class _IntInside(ToyTarget):
    def forward(self, images, decisions=None):
        return replace(super().forward(images, decisions), decisions=3)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param(
            _Whole, "execute counts the ceiling (35619) every time", id="nothing-left-out"
        ),
        pytest.param(_Priced, "block block1 9216 9472 +256", id="declared-against-counted"),
        pytest.param(_Priced, "what always runs 7208 7203 -5", id="what-always-runs"),
        pytest.param(
            _Priced, "counted by layer: stem 7168 head 20 gates.0 5 gates.1 5", id="by-layer"
        ),
        pytest.param(_Tuple, "returned tuple, expected a bench.api.Output", id="tuple"),
        pytest.param(_Cut, "no gradient leads from margins to the images", id="cut-gradient"),
        pytest.param(_Int, "macs(decisions) returns int, expected", id="int-for-a-tensor"),
        pytest.param(
            _IntInside, "Output.decisions is int, expected a torch.Tensor", id="int-inside"
        ),
    ],
)
def test_messages_lead_to_the_mistake(kind, said):
    told = problems(check_target(kind()))
    assert said in re.sub(r"\s+", " ", "\n".join(told))
    assert not [one for one in told if "AttributeError" in one or "TypeError" in one]


def test_promises_that_do_not_apply_are_said():
    class Rigid(ToyTarget):
        """Neither forks nor admits."""

        forks = False
        admits = False

        def fork(self, x, unit):
            return x, x

    findings = check_target(Rigid())
    assert problems(findings) == []
    assert [one.skipped[:29] for one in findings if one.skipped] == [
        "it does not say that it forks",
        "it does not say that it admit",
    ]
