"""Tensors of plugins are read once, as what they are."""

from dataclasses import fields, replace

import pytest
import torch

from bench.contracts.threat import parse_threat
from bench.errors import ContractBroken
from bench.evaluation.judge import judge_images
from bench.evaluation.outputs import check_macs, check_output
from bench.evaluation.plain import plain, plain_copy
from bench.evaluation.sealed_view import SealedView
from bench.evaluation.view import TargetView
from bench.testing import ToyTarget, sample_images
from targets.skipnet import SkipNet

LINF = parse_threat({"norm": "linf", "eps": "8/255"})


class Agreeable(torch.Tensor):
    """Says of every comparison that all is well."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ("__gt__", "__lt__", "gt", "lt", "__ne__", "ne", "any"):
            return torch.zeros(args[0].shape, dtype=torch.bool)
        if name in ("equal", "isfinite", "all"):
            return torch.tensor(True)
        return super().__torch_function__(func, types, args, kwargs or {})


class Computed(torch.Tensor):
    """Has no memory; its own code answers every operator."""

    @staticmethod
    def __new__(cls, shape):
        return torch.Tensor._make_wrapper_subclass(cls, shape)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return torch.zeros(4)


class Pretender:
    """Says that it is a tensor."""

    __class__ = torch.Tensor


def test_a_subclass_becomes_a_tensor_of_the_same_values_and_graph():
    value = torch.rand(3, requires_grad=True)
    found = plain((value * 2).as_subclass(Agreeable), "it")
    assert type(found) is torch.Tensor
    assert torch.autograd.grad(found.sum(), value)[0].tolist() == [2.0] * 3


def test_a_copy_shares_no_memory():
    value = torch.zeros(2).as_subclass(Agreeable)
    found = plain_copy(value, "it")
    torch.Tensor.add_(value, 1)
    assert found.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        pytest.param([1.0], "it: list, expected", id="list"),
        pytest.param(None, "it: NoneType, expected", id="none"),
        pytest.param(Pretender(), "it: Pretender, expected", id="pretender"),
        pytest.param(Computed((4,)), "it: Computed, a tensor that computes", id="computed"),
        pytest.param(torch.eye(2).to_sparse(), r"tensor of layout torch\.sparse_coo", id="sparse"),
        pytest.param(torch.eye(2).to_mkldnn(), r"a tensor of layout torch\._mkldnn", id="mkldnn"),
        pytest.param(torch.eye(2, device="meta"), "a tensor without values", id="meta"),
        pytest.param(
            torch._to_functional_tensor(torch.eye(2)), "a tensor without values", id="functional"
        ),
    ],
)
def test_what_is_no_plain_tensor_is_refused_by_name(value, said):
    with pytest.raises(ContractBroken, match=said):
        plain(value, "it")


def test_images_that_lie_about_comparisons_are_projected_and_flagged():
    clean = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    given = torch.full((2, 3, 4, 4), 0.9).as_subclass(Agreeable)
    judged = judge_images(given, clean, LINF)
    assert judged.overshoot.tolist() == [True, True]
    assert int((judged.saved.int() - 100).abs().max()) == 8


def test_what_is_scored_are_the_decoded_pictures_that_are_stored():
    from bench import codec

    clean = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    judged = judge_images(torch.rand(2, 3, 4, 4), clean, LINF)
    assert torch.equal(
        codec.decoded(judged.pictures, codec.size_of(judged.saved.shape[1:])), judged.saved
    )


class Lying(ToyTarget):
    """Its outputs and prices are of a class that lies."""

    def forward(self, images, decisions=None):
        output = super().forward(images, decisions)
        return type(output)(
            (output.logits + torch.nan).as_subclass(Agreeable),
            output.margins,
            output.logit_margins,
            output.decisions,
        )

    def macs(self, decisions):
        return (super().macs(decisions) * 9).as_subclass(Agreeable)


def test_outputs_and_prices_of_a_lying_class_are_checked_as_they_are():
    target = Lying().eval()
    images = sample_images((3, 8, 8))
    with torch.no_grad(), pytest.raises(ContractBroken, match="logits are not all finite"):
        check_output(target(images), target, len(images))
    target.__dict__["floor"], target.__dict__["ceiling"] = 7203, 35619
    with pytest.raises(ContractBroken, match="outside"):
        check_macs(target, torch.ones(1, 3, dtype=torch.bool))


class Boastful(torch.Tensor):
    """Says that it is larger than anything."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("__gt__", "gt"):
            return torch.ones(args[0].shape, dtype=torch.bool)
        return super().__torch_function__(func, types, args, kwargs or {})


class Dressed(ToyTarget):
    """All that it says is of a class that lies."""

    def forward(self, images, decisions=None):
        output = super().forward(images, decisions)
        return type(output)(
            *(getattr(output, each.name).as_subclass(Boastful) for each in fields(output)[:4])
        )

    def macs(self, decisions):
        return super().macs(decisions).as_subclass(Boastful)

    def marginal_macs(self, decisions):
        return super().marginal_macs(decisions).as_subclass(Boastful)


def test_a_view_records_and_hands_on_what_is_there_whatever_a_target_says():
    clean, rows = sample_images((3, 8, 8), 4), torch.arange(4)
    traces = []
    for kind in (ToyTarget, Dressed):
        view = TargetView.of(kind().eval().requires_grad_(False), clean, 99)
        found = [view.macs(clean, rows)]
        outputs = [view(clean * 0.5, rows), view(clean, rows)]
        output, gradients = view.gradients(
            lambda output: [output.logits.as_subclass(torch.Tensor).sum(1)], clean * 0.9, rows
        )
        outputs.append(output)
        found += [view.price(output.decisions), view.marginal_macs(output.decisions), *gradients]
        found += [getattr(each, name.name) for each in outputs for name in fields(each)[:4]]
        assert {type(value) for value in found} == {torch.Tensor}
        traces.append([view.ledger.trace(row) for row in range(4)])
        macs = [macs for _, macs, _ in traces[-1][0]]
        assert macs == sorted(macs)
    assert traces[0] == traces[1]


def _otherwise(method, change):
    """A toy target one of whose methods says something else."""

    class Otherwise(ToyTarget):
        pass

    own = getattr(ToyTarget, method)
    setattr(Otherwise, method, lambda self, *args: change(own(self, *args)))
    return Otherwise().eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("method", "change", "said"),
    [
        pytest.param("macs", torch.Tensor.double, "returns torch.float64 of", id="float-macs"),
        pytest.param("macs", torch.Tensor.tolist, r"macs\(decisions\) returns list", id="list"),
        pytest.param("macs", lambda macs: macs[:1], r"int64 of shape \(1,\)", id="one-for-all"),
        pytest.param("marginal_macs", torch.Tensor.float, "torch.float32 of", id="float-marginals"),
        pytest.param("forward", lambda output: (output.logits,), "returned tuple", id="tuple"),
        pytest.param(
            "forward",
            lambda output: replace(output, decisions=output.decisions.float()),
            "decisions are torch.float32",
            id="float-decisions",
        ),
        pytest.param(
            "forward",
            lambda output: replace(output, margins=output.margins[:, :2]),
            "margins have shape",
            id="margins",
        ),
        pytest.param(
            "forward",
            lambda output: replace(output, logits=Computed((4, 4))),
            "a tensor that computes",
            id="computed",
        ),
    ],
)
def test_a_view_names_what_a_target_returns_amiss(method, change, said):
    clean, rows = sample_images((3, 8, 8), 4), torch.arange(4)
    view = TargetView.of(_otherwise(method, change), clean, 99)
    with pytest.raises(ContractBroken, match=said):
        view.marginal_macs(view(clean, rows).decisions)
    if method == "forward":
        with pytest.raises(ContractBroken, match=said):
            view.gradients(lambda output: [output.logits.sum(1)], clean, rows)


def test_a_tuple_is_no_output():
    target = ToyTarget()
    with pytest.raises(ContractBroken, match=r"returned tuple, expected a bench\.api\.Output"):
        check_output((torch.zeros(1, 4),), target, 1)


@pytest.mark.parametrize("name", ["rows", "images", "loss"])
def test_a_view_charges_for_what_is_there_whatever_a_tensor_says(name):
    target = ToyTarget().eval().requires_grad_(False)
    clean = sample_images((3, 8, 8), 4)
    view = TargetView.of(target, clean, 99)
    rows, images = torch.arange(4), clean

    def losses(output):
        loss = output.logits.sum(1)
        return [loss.as_subclass(Agreeable) if name == "loss" else loss]

    _, (grad,) = view.gradients(
        losses,
        images.as_subclass(Agreeable) if name == "images" else images,
        rows.as_subclass(Agreeable) if name == "rows" else rows,
    )
    assert type(grad) is torch.Tensor
    assert view.ledger.used.tolist() == [3] * 4
    with pytest.raises(ContractBroken, match="batch has 4 images"):
        view(images, (rows + 9).as_subclass(Agreeable))


def test_what_an_attack_writes_into_the_units_changes_no_price():
    target = SkipNet(depth=8).eval().requires_grad_(False)
    clean, rows = sample_images((3, 32, 32), 2), torch.arange(2)
    inside = TargetView.of(target, clean, 9)
    view = SealedView(inside)
    decisions = view(clean, rows).decisions
    price = view.price(decisions)
    assert view.units is view.using("ste").units, "copied to a device once"
    assert view.units.cost.tolist() == target.units.cost.tolist()
    view.units.cost.fill_(1)
    view.units.after.fill_(0)
    assert torch.equal(view.price(decisions), price)
    assert torch.equal(view(clean, rows).decisions, decisions)
    assert int(target.units.cost.min()) > 1
    assert (SealedView(TargetView.of(target, clean, 9)).units.cost > 1).all()


def test_an_attack_is_handed_no_way_to_target_or_ledger():
    target = ToyTarget().eval().requires_grad_(False)
    inside = TargetView.of(target, sample_images((3, 8, 8), 2), 9)
    view = SealedView(inside).using("ste").within(5)
    kinds = (ToyTarget, TargetView, type(inside.ledger))
    for name in dir(view):
        assert not isinstance(getattr(view, name), kinds), name
    assert not hasattr(view, "__dict__")
    view(sample_images((3, 8, 8), 2), torch.arange(2))
    assert view.left.tolist() == [4, 4]
    assert inside.ledger.used.tolist() == [1, 1]
