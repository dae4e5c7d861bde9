import pytest
import torch

from attacks.optimizer import OPTIMIZERS, Adam, decay

SHAPE = (4, 2, 3, 3)


def gradients(steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator) * 10.0 ** (step % 3) for step in range(steps)]


def test_adam_is_torchs_adam():
    ours, theirs = torch.zeros(SHAPE), torch.zeros(SHAPE, requires_grad=True)
    mine, reference = Adam(0.01), torch.optim.Adam([theirs], lr=0.01)
    for gradient in gradients(40):
        ours = ours - mine.step(gradient)
        theirs.grad = gradient.clone()
        reference.step()
    assert torch.allclose(ours, theirs.detach(), atol=1e-6)


def test_rows_that_leave_do_not_disturb_those_that_stay():
    whole, part = Adam(0.01), Adam(0.01)
    stay = torch.tensor([0, 2])
    for step, gradient in enumerate(gradients(8)):
        full = whole.step(gradient)
        if step == 3:
            part.keep(stay)
        mine = part.step(gradient if step < 3 else gradient[stay])
        assert torch.equal(mine if step >= 3 else mine[stay], full[stay])


@pytest.mark.parametrize("name", ["normalised", "sign"])
def test_steps_of_one_length(name):
    gradient = gradients(1)[0]
    gradient[1] = 0
    step = OPTIMIZERS[name](0.02).step(gradient)
    length = step.flatten(1).square().mean(1).sqrt()
    assert length.tolist() == pytest.approx([0.02, 0.0, 0.02, 0.02])
    assert bool(((step * gradient).flatten(1).sum(1)[[0, 2, 3]] > 0).all())


def test_sgd_is_the_gradient_times_lr():
    gradient = gradients(1)[0]
    assert torch.equal(OPTIMIZERS["sgd"](0.5).step(gradient), gradient * 0.5)


def test_cosine_falls_from_one_to_a_hundredth():
    factor = decay("cosine", torch.tensor([0.0, 0.25, 0.5, 1.0])).flatten()
    assert factor[0] == 1
    assert factor[-1].item() == pytest.approx(0.01)
    assert bool((factor[1:] < factor[:-1]).all())
    assert decay("constant", torch.tensor([0.0, 1.0])).flatten().tolist() == [1, 1]
