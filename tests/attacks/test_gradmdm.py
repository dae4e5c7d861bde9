import pytest
import torch
from gated_toys import LINF8, NONE, PSNR35, ConvGates, Exits, LinearGates, begin, frozen, pictures
from torch import nn

from attacks.box import gradauto_box
from attacks.gradmdm import GradMDM, gate_values, power_losses, unit_rows
from bench.image import difference, inside, to_grid
from bench.plugins.declarations import read_class

CODE = GradMDM(**GradMDM.presets["code"])


def test_power_losses_by_hand():
    """Gates 0.3 and 0.9. Closed: min(G, 1/2) = (0.3, 0.5); open: 1 - max(G, 1/2) = (0.5, 0.1)."""
    value = torch.tensor([[0.3, 0.9]], requires_grad=True)
    positive, negative = power_losses(value, 2.0, 3.5)
    near, far = positive.detach(), negative.detach()
    assert float(near) == pytest.approx((0.5**2 + 0.1**2) ** 0.5)
    assert float(far) == pytest.approx(-((0.3**3.5 + 0.5**3.5) ** (1 / 3.5)))
    (grad,) = torch.autograd.grad(negative.sum(), value, retain_graph=True)
    norm = -float(far)
    assert grad[0].tolist() == pytest.approx([-((0.3 / norm) ** 2.5), 0.0]), (
        "greedy in closed gates, none in open ones"
    )
    (grad,) = torch.autograd.grad(positive.sum(), value)
    assert grad[0].tolist() == pytest.approx([0.0, -0.1 / float(near)])


def test_a_power_below_one_has_a_finite_slope_at_a_sure_gate():
    value = torch.tensor([[1.0, 0.8]], requires_grad=True)
    positive, _ = power_losses(value, 0.35, 3.5)
    (grad,) = torch.autograd.grad(positive.sum(), value)
    assert bool(grad.isfinite().all())


def test_gates_that_are_no_probabilities_are_read_through_a_sigmoid():
    exits = frozen(Exits())
    seen = exits(pictures(2))
    assert torch.equal(gate_values(seen, exits.units), seen.logit_margins.sigmoid())
    gates = frozen(ConvGates())
    seen = gates(pictures(2))
    assert torch.equal(gate_values(seen, gates.units), seen.margins + 0.5)


def slow_rectified(
    net: ConvGates, image: torch.Tensor, p_open: float, p_closed: float, swapped: bool, warm: bool
):
    """grad L_neg of one image (1, C, H, W), worked out segment by segment and gate by gate, without
    forks, in float64.
    """
    inputs = image.clone().requires_grad_()
    maps = [net.stem((inputs - 0.5) * 4).relu()]
    gates = []
    for block, gate in zip(net.blocks, net.gates, strict=True):
        x = maps[-1].detach().requires_grad_()
        logit = gate(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))[0, 0] - 0.4
        onward = x + float(logit.sigmoid() > 0.5) * block(x).relu()
        gates.append((x, logit, onward))
        maps.append(onward)
    values = torch.stack([logit for _, logit, _ in gates]).sigmoid().detach().requires_grad_()
    ran = values.detach() > 0.5
    if bool(ran.all()):
        return torch.zeros_like(image)
    positive = (1 - values.clamp(min=0.5)).clamp(min=1e-6).pow(p_open).sum().pow(1 / p_open)
    negative = -values.clamp(max=0.5).pow(p_closed).sum().pow(1 / p_closed)
    protected: dict[int, torch.Tensor] = {}
    for loss, name in ((positive, "open"), (negative, "closed")):
        if name == "open" and (warm or not bool(ran.any())):
            continue
        (slope,) = torch.autograd.grad(loss, values)
        down = torch.zeros_like(gates[-1][2])
        for j in reversed(range(len(gates))):
            x, logit, onward = gates[j]
            (main,) = torch.autograd.grad(onward, x, down, retain_graph=True)
            dlogit = slope[j] * logit.sigmoid() * (1 - logit.sigmoid())
            (own,) = torch.autograd.grad(logit, x, dlogit.detach(), retain_graph=True)
            if warm:
                down = main + own
                continue
            about_open = (name == "open") != swapped
            count = int(ran[j:].sum()) if about_open else int((~ran[j:]).sum())
            met = count * main / (main.norm() + 1e-20) + own / (own.norm() + 1e-20)
            if name == "open":
                protected[j] = met
            elif j in protected:
                keep = protected[j] / (protected[j].norm() + 1e-20)
                met = met - min(float((met * keep).sum()), 0.0) * keep
            down = met
    (grad,) = torch.autograd.grad(maps[0], inputs, down)
    return grad


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("warm", [False, True])
def test_a_step_is_what_the_slow_way_finds(swapped, warm):
    """Every map's gradient worked out one gate at a time agrees with the forks' to 1e-5, image by
    image.
    """
    target = frozen(ConvGates().double())
    images = pictures(6).double()
    attacker = GradMDM(
        scale=1.0, counts="swapped" if swapped else "own", warmup=5.0 if warm else 0.0, p_open=4.0
    )
    view, _ = begin(target, images, 100)
    box = gradauto_box("clamp", view.image_shape)
    look = attacker.step_rule(view, images).evaluate(
        box.place(images, images, NONE), torch.arange(6), torch.zeros(6)
    )
    powers = (1.0, 1.0) if warm else (4.0, 3.5)
    for row in range(6):
        slow = slow_rectified(target, images[row : row + 1], *powers, swapped, warm)[0]
        assert float((look.gradient[row] - slow).abs().max()) < 1e-5 * max(
            1.0, float(slow.abs().max())
        )
    ran = target(images).decisions
    assert bool(ran.any(1).any())
    assert not bool(ran.all(1).any())


def test_code_preset_is_the_released_loop():
    """Golden: the released map, Adam, 1.5e5 and gamma, warm-up and swapped counts, written again
    with the slow gradient.
    """
    mean = torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64).view(1, 3, 1, 1)
    std = torch.tensor([0.2023, 0.1994, 0.2010], dtype=torch.float64).view(1, 3, 1, 1)
    low = torch.tensor([-2.4291, -2.4183, -2.2214], dtype=torch.float64).view(1, 3, 1, 1)
    high = torch.tensor([2.5141, 2.5968, 2.7537], dtype=torch.float64).view(1, 3, 1, 1)
    target, images, steps = frozen(ConvGates().double()), pictures(3).double(), 4
    expected = []
    for image in images.split(1):
        x = (image - mean) / std
        delta = torch.zeros_like(x, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=0.01)
        for step in range(steps):
            moved = low + (high - low) * ((0.8 * (x + delta)).tanh() + 1) / 2
            if step == steps - 1:
                break
            warm = step < 2
            powers = (1.0, 1.0) if warm else (50.0, 3.5)
            pixels = (moved * std + mean).detach()
            g_pixels = slow_rectified(target, pixels, *powers, swapped=True, warm=warm)
            (g_negative,) = torch.autograd.grad(moved, delta, g_pixels * std, retain_graph=True)
            (g_far,) = torch.autograd.grad(((moved - x) ** 2).sum(), delta)
            adam.zero_grad()
            delta.grad = 1.5e5 * g_negative + 100 * g_far
            adam.step()
        expected.append((moved * std + mean).detach())
    params = {**GradMDM.presets["code"], "steps": steps, "warmup": 2.0}
    view, job = begin(target, images, 1000, NONE)
    found = GradMDM(**params).perturb(view, images, torch.zeros(3, dtype=torch.int64), job)
    assert float((found - torch.cat(expected).clamp(0, 1)).abs().max()) < 1e-5


def test_direction_takes_out_what_opposes_open_gates():
    """With the counts of its own losses, nothing that leaves a fork opposes what protects the open
    gates there.
    """
    target, images = frozen(ConvGates()), pictures(8)
    view, _ = begin(target, images, 100)
    met: dict[tuple[int, int], torch.Tensor] = {}
    rule = GradMDM(warmup=0.0).step_rule(view, images)
    kept = view.target.evaluation
    original = type(view).gradients

    def spying(self, losses, inputs, rows, at_fork=None):
        def edit(loss, unit, main, gate):
            out = at_fork(loss, unit, main, gate)
            met[loss, unit] = out[0] + out[1]
            return out

        return original(self, losses, inputs, rows, edit)

    type(view).gradients = spying
    try:
        rule.evaluate(
            gradauto_box("clamp", view.image_shape).place(images, images, NONE),
            torch.arange(8),
            torch.zeros(8),
        )
    finally:
        type(view).gradients = original
    assert view.target.evaluation is kept
    units = {unit for loss, unit in met if loss == 1}
    assert len(units) == 6
    for unit in units:
        if (0, unit) in met:
            along = (unit_rows(met[0, unit]) * met[1, unit]).flatten(1).sum(1)
            assert bool((along > -1e-4).all())


@pytest.mark.parametrize("threat", [PSNR35, LINF8, NONE], ids=str)
def test_recovers_inside_its_threat_and_its_budget(threat):
    target, images = frozen(ConvGates()), pictures(16)
    view, job = begin(target, images, 100, threat)
    adversarial = GradMDM().perturb(view, images, target(images).logits.argmax(1), job)
    assert bool((view.left >= 0).all())
    assert bool(inside(difference(to_grid(adversarial), to_grid(images)), threat).all())
    clean, won = (target.macs(target(x).decisions).double().mean() for x in (images, adversarial))
    assert won - clean > 0.2 * (target.ceiling - clean)


def test_targets_without_forks_are_skipped_with_the_reason():
    refusal = GradMDM().supports(frozen(Exits()), PSNR35)
    assert "fork" in refusal.reason
    assert GradMDM().supports(frozen(ConvGates()), PSNR35) is None
    assert "published" in CODE.supports(frozen(ConvGates()), PSNR35).reason
    assert CODE.supports(frozen(ConvGates()), NONE) is None


def test_backwards_are_charged_as_the_docstring_says():
    weight = torch.tensor([[20.0, 0.0], [0.0, 20.0]])
    target = frozen(LinearGates(weight, torch.tensor([-10.0, -10.0]), (1, 1, 2)))
    images = torch.tensor([[0.8, 0.2], [0.2, 0.2], [0.8, 0.8]]).reshape(3, 1, 1, 2)
    for warmup, expected in ((0.0, [2, 1, 0]), (5.0, [1, 1, 0])):
        view, _ = begin(target, images, 100)
        GradMDM(warmup=warmup).step_rule(view, images).evaluate(
            gradauto_box("clamp", view.image_shape).place(images, images, NONE),
            torch.arange(3),
            torch.zeros(3),
        )
        assert view.ledger.backwards.tolist() == expected


def test_parameters_are_read_without_importing_torch():
    def unreadable():
        raise AssertionError("the source does not tell; a plan would import torch")

    facts = read_class("attacks.gradmdm", "GradMDM", unreadable)
    assert set(facts.presets) == {"code", "code-sp", "clean"}
    assert facts.constants["needs"].startswith("gates that read")
