"""Every use of a target is charged, limited to its access, and leaves the target as it was."""

import dataclasses

import pytest
import torch

from bench.errors import BudgetSpent, ContractBroken
from bench.evaluation.ledger import Ledger, check_paid
from bench.evaluation.view import TargetView
from bench.store.schema import TRACE_POINTS
from bench.testing import ToyTarget, sample_images


@pytest.fixture
def target():
    return ToyTarget().eval().requires_grad_(False)


@pytest.fixture
def images(target):
    return sample_images(target.image_shape)


def rows_of(images):
    return torch.arange(len(images))


def used(view):
    return view.ledger.used.tolist(), view.ledger.forwards.tolist(), view.ledger.backwards.tolist()


def test_a_forward_costs_one(target, images):
    view = TargetView.of(target, images, 10)
    output = view(images[[0, 0, 2]], torch.tensor([0, 0, 2]))
    assert used(view) == ([2, 0, 1, 0, 0, 0], [2, 0, 1, 0, 0, 0], [0] * 6)
    assert view.left.tolist() == [8, 10, 9, 10, 10, 10]
    assert not output.logits.requires_grad


def test_a_backward_costs_two_and_a_row_without_loss_none(target, images):
    view = TargetView.of(target, images[:3], 10)
    mask = torch.tensor([1.0, 0.0, 1.0])
    _, (first, second) = view.gradients(
        lambda output: [output.margins.sum(1), output.logit_margins.sum(1) * mask],
        images[:3],
        torch.arange(3),
    )
    assert used(view) == ([5, 3, 5], [1, 1, 1], [2, 1, 2])
    assert first.abs().flatten(1).amax(1).min() > 0
    assert not second[1].any()
    assert second[0].any()


def tensors_of_graphs(values):
    """Every tensor that a walk from `values` along their graphs comes by, saved ones included."""
    found, seen = list(values), set()
    todo = [value.grad_fn for value in values]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        found += [value for value in saved if isinstance(value, torch.Tensor)]
        found += [node.variable] if hasattr(node, "variable") else []
        todo += [before for before, _ in node.next_functions]
    return found


def test_no_way_leads_from_the_output_that_losses_are_given_to_the_network(target, images):
    """A tensor that the network saved for its backward pass gives a gradient that nobody paid."""
    view, shapes = TargetView.of(target, images, 10), set()

    def losses(output):
        given = [getattr(output, each.name) for each in dataclasses.fields(output)]
        given = [value for value in given if value is not None]
        sums = [value.sum() for value in given if value.requires_grad]
        shapes.update(tuple(value.shape) for value in tensors_of_graphs([*given, *sums]))
        return [output.margins.sum(1) * 0]

    view.gradients(losses, images, rows_of(images))
    assert shapes == {(), (6, 3), (6, 4)}
    assert used(view)[0] == [1] * 6


@pytest.mark.parametrize("when", ["inside-of-the-losses", "afterwards"])
def test_a_gradient_of_a_graph_that_was_found_elsewhere_is_not_free(target, images, when):
    view, kept = TargetView.of(target, images, 10), []
    target.register_forward_hook(lambda module, given, output: kept.append((*given, output)))

    def steal():
        inputs, output = kept[0]
        return torch.autograd.grad(output.logit_margins.sum(), inputs, retain_graph=True)

    def losses(output):
        if when == "inside-of-the-losses":
            steal()
        return [output.margins.sum(1) * 0]

    if when == "inside-of-the-losses":
        with pytest.raises(ContractBroken, match="took gradients of its own"):
            view.gradients(losses, images, rows_of(images))
        return
    view.gradients(losses, images, rows_of(images))
    check_paid(6, view.ledger, "it")
    steal()
    with pytest.raises(ContractBroken, match="took 1 gradients of its own, which are not paid"):
        check_paid(6, view.ledger, "it")


def test_losses_share_outputs_and_graphs(target, images):
    """Bit by bit what one backward pass of each loss through the whole graph gives."""
    rows, view = rows_of(images), TargetView.of(target, images, 100)

    def losses(output):
        both = output.margins * output.logit_margins + output.margins.square()
        return [
            both.sum(1) + output.logits.logsumexp(1),
            both.relu().mean(1),
            output.logits[:, 0] + 0 * both[:, 1],
            torch.arange(6.0).requires_grad_() * 2,  # has a graph, and no output in it
        ]

    _, found = view.gradients(losses, images, rows)
    inputs = images.clone().requires_grad_()
    values = losses(target(inputs))
    expected = [
        torch.autograd.grad(loss.sum(), inputs, retain_graph=True)[0] for loss in values[:3]
    ]
    assert all(torch.equal(a, b) for a, b in zip(found, [*expected, 0 * images], strict=True))
    asked = torch.stack(values) != 0
    assert not asked.all()
    assert used(view)[2] == asked.sum(0).tolist()


def test_a_loss_that_writes_into_the_output_changes_no_record(target, images):
    def losses(output):
        output.decisions.fill_(True)
        return [output.logits.sum(1)]

    traces = []
    for each in (losses, lambda output: [output.logits.sum(1)]):
        view = TargetView.of(target, images, 10)
        output, _ = view.gradients(each, images, rows_of(images))
        traces.append([view.ledger.trace(row) for row in range(len(images))])
        assert not bool(output.decisions.all())
    assert traces[0] == traces[1]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda images: torch.cat([images, images], 3), id="two-in-one"),
        pytest.param(lambda images: images.double(), id="double"),
        pytest.param(lambda images: images[:, :1], id="channels"),
    ],
)
def test_images_of_another_shape_or_type_are_refused(target, images, change):
    view = TargetView.of(target, images, 10)
    with pytest.raises(ContractBroken, match=r"expected torch\.float32 \(M, 3, 8, 8\)"):
        view(change(images), rows_of(images))
    assert not view.ledger.used.any()


def test_a_batch_inside_of_torch_func_is_refused(target, images):
    view = TargetView.of(target, images, 10)
    many = torch.stack([images, images.flip(0)])
    with pytest.raises(ContractBroken, match=r"a tensor inside of torch\.func"):
        torch.func.vmap(lambda each: view.macs(each, rows_of(images)))(many)


def test_no_backward_at_all_where_no_loss_is_left(target, images):
    view = TargetView.of(target, images, 1)
    output, (grad,) = view.gradients(
        lambda output: [output.margins.sum(1) * 0], images, rows_of(images)
    )
    assert used(view) == ([1] * 6, [1] * 6, [0] * 6)
    assert torch.equal(grad, torch.zeros_like(images))
    assert not output.margins.requires_grad


def test_a_free_row_gets_no_gradient(target, images):
    """A loss that is 0 in value but has a slope would be a backward pass that nobody paid for."""
    view = TargetView.of(target, images, 20)

    def losses(output):
        value = output.logit_margins.sum(1)
        free = value - value.detach()
        return [torch.cat([value[:1], free[1:]])]

    _, (grad,) = view.gradients(losses, images, rows_of(images))
    assert used(view)[0] == [3, 1, 1, 1, 1, 1]
    assert grad[0].any()
    assert not grad[1:].any()


def test_gradients_are_those_of_autograd_and_of_each_row_alone(target, images):
    view = TargetView.of(target, images, 100)
    _, (grad,) = view.gradients(
        lambda output: [output.logit_margins.sum(1)], images, rows_of(images)
    )
    inputs = images.clone().requires_grad_()
    (oracle,) = torch.autograd.grad(target(inputs).logit_margins.sum(), inputs)
    assert torch.allclose(grad, oracle, rtol=1e-5, atol=1e-6)
    _, (alone,) = view.gradients(
        lambda output: [output.logit_margins.sum(1)], images[2:3], torch.tensor([2])
    )
    assert torch.allclose(grad[2:3], alone, rtol=1e-5, atol=1e-5 * float(alone.abs().max()))


def test_beyond_the_budget_nothing_is_evaluated_or_charged(target, images):
    view = TargetView.of(target, images, 3)
    view(images[:1], torch.tensor([0]))
    before, calls = used(view), []
    target.register_forward_hook(lambda *ignored: calls.append(1))
    with pytest.raises(BudgetSpent, match="budget of 3"):
        view(images[[0, 1, 0, 0]], torch.tensor([0, 1, 0, 0]))
    assert used(view) == before
    assert not calls
    assert view.ledger.trace(1) == []


def test_a_backward_that_cannot_be_paid_is_not_taken(target, images):
    """Its forward ran and stays charged: what it costs is known only once the losses are."""
    view = TargetView.of(target, images[:2], 2)
    with pytest.raises(BudgetSpent):
        view.gradients(lambda output: [output.margins.sum(1)], images[:2], torch.arange(2))
    assert used(view) == ([1, 1], [1, 1], [0, 0])


def test_macs_is_the_only_door_without_access_to_gates(target, images):
    view = TargetView.of(target, images, 5, "macs")
    macs = view.macs(images, rows_of(images))
    assert macs.dtype == torch.int64
    assert torch.equal(macs, target.macs(target(images).decisions))
    for ask in (
        lambda: view(images, rows_of(images)),
        lambda: view.gradients(lambda output: [output.margins.sum(1)], images, rows_of(images)),
        lambda: view.price(torch.ones(1, 3, dtype=torch.bool)),
        lambda: view.using("ste")(images, rows_of(images)),
    ):
        with pytest.raises(ContractBroken, match='access "macs"'):
            ask()
    assert view.ledger.used.tolist() == [1] * 6


def test_prices_are_free(target, images):
    view = TargetView.of(target, images, 5)
    assert view.price(torch.tensor([[True, False, True]])).tolist() == [7203 + 2 * 9472]
    assert view.ledger.used.sum() == 0
    assert (view.floor, view.ceiling, view.classes, view.image_shape, len(view.units)) == (
        7203,
        35619,
        4,
        (3, 8, 8),
        3,
    )


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(torch.arange(2), id="too-few"),
        pytest.param(torch.arange(7), id="too-many"),
        pytest.param(torch.tensor([0, 1, 2, 3, 4, 6]), id="too-high"),
        pytest.param(torch.tensor([0, 1, 2, 3, 4, -1]), id="negative"),
        pytest.param(torch.zeros(6), id="floats"),
        pytest.param([0] * 6, id="list"),
    ],
)
def test_rows_that_are_not_one_image_each_are_refused(target, images, rows):
    view = TargetView.of(target, images, 9)
    with pytest.raises(ContractBroken, match="rows"):
        view(images, rows)
    assert view.ledger.used.sum() == 0


def test_losses_must_be_one_number_a_row(target, images):
    view = TargetView.of(target, images, 9)
    with pytest.raises(ContractBroken, match="one number a row"):
        view.gradients(lambda output: [output.margins], images, rows_of(images))


def test_mask_gradients_are_chosen_for_one_use_and_put_back(target, images):
    seen = []
    target.register_forward_hook(lambda module, *ignored: seen.append(module.evaluation.mask_grad))
    view = TargetView.of(target, images, 30)
    losses = lambda output: [output.logits.sum(1)]  # noqa: E731
    _, (hard,) = view.using("none").gradients(losses, images, rows_of(images))
    _, (soft,) = view.using("ste").gradients(losses, images, rows_of(images))
    _, (own,) = view.gradients(losses, images, rows_of(images))
    assert seen == ["none", "ste", "none"]
    assert torch.equal(hard, own)
    assert not torch.allclose(hard, soft), "straight-through masks let the gates' gradient through"
    assert view.using("ste").ledger is view.ledger, "one budget for all views"

    def failing(output):
        raise LookupError

    for fork in (None, lambda *grads: grads[2:]):
        with pytest.raises(LookupError):
            view.using("ste").gradients(failing, images, rows_of(images), at_fork=fork)
        assert target.evaluation.mask_grad == "none"
        assert target.evaluation.at_fork is None
    with pytest.raises(BudgetSpent):
        TargetView.of(target, images, 2).using("ste").gradients(losses, images, rows_of(images))
    assert target.evaluation.mask_grad == "none"


def split_gradients(target, images, loss):
    """The gradient through the main paths alone and through the gates alone, by hand: detach one
    side of every fork."""
    found = []
    for keep in ("main", "gate"):
        plain = target.fork
        target.fork = lambda x, unit, keep=keep: (
            (x, x.detach()) if keep == "main" else (x.detach(), x)
        )
        try:
            inputs = images.clone().requires_grad_()
            (grad,) = torch.autograd.grad(loss(target(inputs)).sum(), inputs)
            found.append(grad)
        finally:
            target.fork = plain
    return found


def test_fork_edits_meet_both_gradients(target, images):
    view = TargetView.of(target, images, 200).using("ste")
    rows, loss = rows_of(images), lambda output: output.logits[:, 0] + output.logit_margins[:, 0]
    _, (whole,) = view.gradients(lambda output: [loss(output)], images, rows)
    _, (same,) = view.gradients(
        lambda output: [loss(output)],
        images,
        rows,
        at_fork=lambda i, unit, main, gate: (main, gate),
    )
    assert torch.allclose(whole, same, rtol=1e-5, atol=1e-7)
    _, (main,) = view.gradients(
        lambda output: [loss(output)],
        images,
        rows,
        at_fork=lambda i, unit, main, gate: (main, gate * 0),
    )
    with target.evaluating(mask_grad="ste"):
        by_hand, _ = split_gradients(target, images, loss)
    assert torch.allclose(main, by_hand, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(main, whole, rtol=1e-2)


def test_fork_edits_know_their_loss_and_their_unit(target, images):
    seen = []

    def edit(loss, unit, main, gate):
        seen.append((loss, unit, main.shape == gate.shape == (6, 4, 8, 8)))
        return main, gate

    view = TargetView.of(target, images, 50)
    losses = lambda output: [output.margins[:, 2], output.margins.sum(1) * 0, output.logits[:, 0]]  # noqa: E731
    view.gradients(losses, images, rows_of(images), at_fork=edit)
    assert seen == [
        (0, 2, True),
        (0, 1, True),
        (0, 0, True),
        (2, 2, True),
        (2, 1, True),
        (2, 0, True),
    ]


def test_the_trace_keeps_the_best_so_far(target):
    clean = torch.zeros(2, 3, 8, 8)
    ledger = Ledger(clean, 100)

    def show(row, macs, size):
        ledger.charge(torch.tensor([row]))
        ledger.record(torch.tensor([row]), clean[row : row + 1] + size / 255, torch.tensor([macs]))

    for macs, size in [(10, 1), (8, 0), (10, 2), (12, 5), (12, 3), (12, 4)]:
        show(0, macs, size)
    show(1, 7, 0)
    values = 3 * 8 * 8
    expected = [(1, 10, 1 * values), (4, 12, 25 * values), (5, 12, 9 * values)]
    assert [(a, b, pytest.approx(c, rel=1e-4)) for a, b, c in expected] == ledger.trace(0)
    assert ledger.trace(1) == [(1, 7, 0.0)]


def test_of_several_rows_of_one_image_the_best_is_kept():
    clean = torch.zeros(1, 3, 8, 8)
    ledger = Ledger(clean, 9)
    rows = torch.zeros(3, dtype=torch.int64)
    ledger.charge(rows)
    ledger.record(rows, torch.zeros(3, 3, 8, 8), torch.tensor([5, 9, 7]))
    assert ledger.trace(0)[-1] == (3, 9, 0.0)


def test_a_long_climb_stays_within_the_trace(target):
    clean = torch.zeros(1, 3, 8, 8)
    ledger = Ledger(clean, 2000)
    row = torch.tensor([0])
    for i in range(1500):
        ledger.charge(row)
        ledger.record(row, clean + (1500 - i) / 2e5, torch.tensor([i // 100]))
    trace = ledger.trace(0)
    assert len(trace) <= TRACE_POINTS
    assert trace[0][0] == 1
    assert trace[-1][0] == 1500
    assert sorted({macs for _, macs, _ in trace}) == list(range(15))
