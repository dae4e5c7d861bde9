import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.rules import Incidents, Rectification, direction, magnitude, norms

SHAPE = (2, 3, 3)


def vectors(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)[:, :, None, None]


@st.composite
def pairs(draw):
    seed = draw(st.integers(0, 2**31))
    scale = 10.0 ** draw(st.integers(-6, 6))
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, *SHAPE, generator=generator) * scale, torch.randn(
        5, *SHAPE, generator=generator
    )


@given(pairs())
def test_direction_never_opposes_what_is_finished(pair):
    """Golden 3."""
    gradient, finished = pair
    rectified, lost = direction(gradient, finished)
    assert not bool(lost.any())
    inner = (rectified * finished).flatten(1).sum(1)
    scale = (norms(gradient) * norms(finished)).flatten()
    assert bool((inner >= -1e-6 * scale).all())
    acute = (gradient * finished).flatten(1).sum(1) >= 0
    assert torch.equal(rectified[acute], gradient[acute])
    assert bool((norms(rectified) <= norms(gradient) * (1 + 1e-5)).all())


def test_direction_by_hand():
    rectified, lost = direction(
        vectors([1.0, -1.0], [1.0, 1.0], [3.0, -4.0]), vectors([0.0, 2.0], [0.0, 2.0], [0.0, 0.0])
    )
    assert torch.equal(
        rectified, vectors([1.0, 0.0], [1.0, 1.0], [3.0, -4.0])
    )  # no finished gate: no projection (A.7 c)
    assert lost.tolist() == [False, False, False]


def test_an_antiparallel_gradient_is_kept_rather_than_its_rounding_noise():
    gradient = vectors([1.0, 1e-4], [1.0, 1e-2])
    rectified, lost = direction(gradient, vectors([-1.0, 0.0], [-1.0, 0.0]))
    assert lost.tolist() == [True, False]
    assert torch.equal(rectified[0], gradient[0])
    assert torch.allclose(rectified[1], vectors([0.0, 1e-2])[0], atol=1e-8)


@given(pairs(), st.floats(1e-3, 1e3))
def test_magnitude_has_the_length_asked_for(pair, length):
    """Golden 2, the rule alone."""
    assert torch.allclose(
        norms(magnitude(pair[0], length)).flatten(), torch.full((5,), length), rtol=1e-4
    )
    capped = norms(magnitude(pair[0], length, "cap")).flatten()
    assert torch.allclose(capped, norms(pair[0]).flatten().clamp(max=length), rtol=1e-4)


def test_no_gradient_has_no_length():
    assert torch.equal(magnitude(torch.zeros(2, *SHAPE), 5.0), torch.zeros(2, *SHAPE))
    noise = torch.full((1, *SHAPE), 1e-15)
    assert torch.equal(magnitude(noise, 5.0), torch.zeros(1, *SHAPE))
    small = torch.full((1, *SHAPE), 1e-10)
    assert norms(magnitude(small, 5.0)).item() == pytest.approx(5.0)


def test_order_of_the_two_rules_matters_only_in_length():
    gradient, finished, loss = vectors([3.0, -4.0]), vectors([0.0, 1.0]), torch.ones(1)
    code = Rectification(2.0, True, True)(gradient, finished, loss)
    paper = Rectification(2.0, True, True, project_first=False)(gradient, finished, loss)
    assert torch.allclose(code, vectors([2.0, 0.0]))
    assert torch.allclose(paper, vectors([1.2, 0.0]))
    assert torch.equal(Rectification(2.0, False, False)(gradient, finished, loss), gradient)
    assert torch.allclose(
        Rectification(2.0, True, False)(gradient, finished, loss), vectors([1.2, -1.6])
    )
    assert torch.allclose(
        Rectification(2.0, False, True)(gradient, finished, loss), vectors([3.0, 0.0])
    )


def test_bad_gradients_are_counted_and_take_no_step():
    incidents = Incidents()
    assert not incidents
    rule = Rectification(2.0, True, True, incidents=incidents)
    gradient = torch.stack(
        [
            torch.full(SHAPE, 1e-15),
            torch.zeros(SHAPE),
            torch.full(SHAPE, torch.nan),
            torch.ones(SHAPE),
        ]
    )
    rectified = rule(gradient, torch.zeros_like(gradient), torch.tensor([0.1, 0.0, 0.1, 0.1]))
    assert norms(rectified).flatten().tolist() == pytest.approx([0, 0, 0, 2.0])
    assert (incidents.vanished, incidents.nonfinite, incidents.antiparallel) == (
        1,
        1,
        0,
    )  # the row that is done is no incident
    rule(vectors([1.0, 0.0]), vectors([-1.0, 0.0]), torch.ones(1))
    assert incidents.antiparallel == 1


def test_rows_do_not_mix():
    generator = torch.Generator().manual_seed(3)
    gradient, finished = (
        torch.randn(6, *SHAPE, generator=generator),
        torch.randn(6, *SHAPE, generator=generator),
    )
    rule = Rectification(1.5, True, True)
    together = rule(gradient, finished, torch.ones(6))
    alone = torch.cat(
        [rule(gradient[i : i + 1], finished[i : i + 1], torch.ones(1)) for i in range(6)]
    )
    assert torch.allclose(together, alone, rtol=1e-6)
