"""What holds while an attack takes gradients, and no longer."""

import pytest
import torch
from gated_networks import natural

from bench.errors import PlanError
from bench.evaluation.passes import check_precision, gradient_pass
from bench.evaluation.view import TargetView
from bench.store.provenance import deterministic
from bench.testing import ToyTarget
from targets.manidp import ManiDP
from targets.sact import SACT
from targets.sdn import SDN
from targets.skipnet import SkipNet


def _filled():
    return bool(torch.empty(1000).isnan().all())


@pytest.fixture(autouse=True)
def _deterministic():
    before = torch.get_deterministic_debug_mode()
    deterministic(1)
    yield
    torch.set_deterministic_debug_mode(before)


def test_fresh_memory_is_filled_but_in_a_gradient_pass():
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert _filled()
    with gradient_pass():
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert _filled()
    with pytest.raises(ValueError, match="inside"), gradient_pass():
        raise ValueError("inside")
    assert _filled()


def test_a_view_fills_none_in_its_gradients_alone():
    target = ToyTarget().eval().requires_grad_(False)
    images = torch.rand(2, *target.image_shape)
    view, rows, seen = TargetView.of(target, images, 10), torch.arange(2), []
    forward = target.forward

    def noted(*args):
        seen.append(torch.utils.deterministic.fill_uninitialized_memory)
        return forward(*args)

    target.forward = noted
    view(images, rows)
    view.gradients(lambda output: [output.margins.sum(1)], images, rows)
    view(images, rows)
    assert seen == [True, False, True]


NETWORKS = {
    "skipnet": lambda: SkipNet(depth=8),
    "skipnet-hrl": lambda: SkipNet(depth=8, form="hrl"),
    "sact": lambda: SACT(depth=14),
    "manidp": lambda: ManiDP(depth=8),
    "sdn": lambda: SDN(backbone="resnet-8", threshold=0.2),
}


def _noting(target):
    """Types that autocast has in each forward pass of a network, None where it is off."""
    seen, forward = [], target.forward

    def noted(*args):
        on = torch.is_autocast_enabled("cpu")
        seen.append(torch.get_autocast_dtype("cpu") if on else None)
        return forward(*args)

    target.forward = noted
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_in_bfloat16_are_nearly_those_in_float32(name):
    torch.manual_seed(3)
    target = NETWORKS[name]().eval().requires_grad_(False).equivalent()
    images, rows = natural(4, seed=2), torch.arange(4)

    def found(precision):
        view = TargetView.of(target, images, 10, precision=precision)
        output, (grad,) = view.gradients(lambda out: [out.margins.sum(1)], images, rows)
        return output, grad, view(images, rows), view.ledger

    exact, whole, plain, ledger = found("float32")
    seen = _noting(target)
    output, grad, later, other = found("bf16")
    assert seen == [torch.bfloat16, None]
    assert output.logits.dtype == output.margins.dtype == grad.dtype == torch.float32
    assert not torch.equal(output.logits, exact.logits)
    assert torch.allclose(output.logits, exact.logits, rtol=0.1, atol=0.1)
    near = torch.cosine_similarity(grad.flatten(1), whole.flatten(1))
    assert bool((near > 0.8).all()), near
    for mine, expected in zip(vars(later).values(), vars(plain).values(), strict=True):
        assert mine is expected is None or torch.equal(mine, expected)  # without gradients: exact
    assert torch.equal(other.used, ledger.used)
    points = [len(other.trace(row)) for row in range(4)]
    assert points == [1] * 4  # of the exact evaluation alone
    assert [other.trace(row)[0][0] for row in range(4)] == [4] * 4


def test_a_bfloat16_pass_ends_with_an_error_too():
    target = ToyTarget().eval().requires_grad_(False)
    images = torch.rand(2, *target.image_shape)
    view = TargetView.of(target, images, 10, precision="bf16")

    def broken(output):
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        view.gradients(broken, images, torch.arange(2))
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("precision", "device", "capability", "able"),
    [
        ("float32", "cuda", (7, 5), True),
        ("tf32", "cuda", (8, 0), True),
        ("bf16", "cuda", (9, 0), True),
        ("tf32", "cuda", (7, 5), False),
        ("bf16", "cuda", (7, 5), False),
        ("bf16", "cpu", None, True),
        ("tf32", "cpu", None, False),
        ("bf16", "mps", None, False),
    ],
    ids=["float32", "tf32", "bf16", "tf32-turing", "bf16-turing", "bf16-cpu", "tf32-cpu", "mps"],
)
def test_what_a_device_computes_in(monkeypatch, precision, device, capability, able):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    if able:
        check_precision(precision, torch.device(device))
        return
    with pytest.raises(PlanError, match=f'precision = "{precision}": {device} has no') as caught:
        check_precision(precision, torch.device(device))
    assert "float32" in str(caught.value.hint)


def test_tf32_is_allowed_in_a_gradient_pass_alone():
    def allowed():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    assert allowed() == (False, False)
    with gradient_pass("tf32"):
        assert allowed() == (True, True)
    assert allowed() == (False, False)
    with pytest.raises(ValueError, match="inside"), gradient_pass("tf32"):
        raise ValueError("inside")
    assert allowed() == (False, False)
