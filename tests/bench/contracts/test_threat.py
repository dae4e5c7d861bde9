"""Threats are integer bounds, exact at the edges; every bad spelling is refused with its place."""

from fractions import Fraction
from math import isqrt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.contracts.threat import Threat, parse_threat
from bench.errors import PlanError

VALUES = 3 * 32 * 32


@pytest.mark.parametrize(
    ("threat", "values", "bound"),
    [
        pytest.param(Threat("linf", Fraction(8, 255)), VALUES, 8, id="linf-8"),
        pytest.param(Threat("linf", Fraction(1, 255)), VALUES, 1, id="linf-1"),
        pytest.param(
            Threat("linf", Fraction(1, 255) - Fraction(1, 10**17)),
            VALUES,
            0,
            id="linf-just-below-1",
        ),
        pytest.param(
            Threat("linf", Fraction("0.031")), VALUES, 7, id="linf-0.031"
        ),  # 7.905: 0.031 is not 8/255
        pytest.param(Threat("linf", Fraction(1)), VALUES, 255, id="linf-all"),
        pytest.param(
            Threat("l2", Fraction(1, 2)), VALUES, 16256, id="l2-half"
        ),  # 127.5^2 = 16256.25
        pytest.param(Threat("l2", Fraction(1, 255)), VALUES, 1, id="l2-1"),
        pytest.param(Threat("l2", Fraction(2, 255)), VALUES, 4, id="l2-2"),
        pytest.param(
            Threat("l2", Fraction(2, 255) - Fraction(1, 10**15)), VALUES, 3, id="l2-just-below-2"
        ),
        pytest.param(
            Threat("psnr", Fraction(35)), VALUES, 63168, id="psnr-35"
        ),  # 3072 * 65025 * 10^-3.5 = 63168.6…
        pytest.param(
            Threat("psnr", Fraction(20)), 100, 65025, id="psnr-20-whole"
        ),  # 100 * 65025 / 100, an integer: the bound itself is inside
        pytest.param(
            Threat("psnr", Fraction(10)), 7, 45517, id="psnr-10"
        ),  # 7 * 65025 / 10 = 45517.5
        pytest.param(Threat("psnr", Fraction(100)), VALUES, 0, id="psnr-100"),
        pytest.param(Threat("patch", Fraction(8)), VALUES, 8, id="patch"),
        pytest.param(Threat("none", Fraction(0)), VALUES, None, id="none"),
    ],
)
def test_bounds_at_their_edges(threat, values, bound):
    assert threat.bound(values) == bound
    assert threat.admits_change(values) == (bound is None or bound >= 1)


@given(st.fractions(min_value=Fraction(1, 10**6), max_value=2), st.integers(1, 10**6))
def test_linf_and_l2_bounds_are_the_largest_integers_that_fit(eps, values):
    linf, l2 = Threat("linf", eps).bound(values), Threat("l2", eps).bound(values)
    assert Fraction(linf, 255) <= eps < Fraction(linf + 1, 255)
    assert l2 <= (255 * eps) ** 2 < l2 + 1
    assert isqrt(l2) == linf


@given(st.integers(1, 200), st.integers(1, 10**6))
def test_psnr_bound_against_exact_integer_roots(floor, values):
    """b is the largest integer with b <= n 255^2 10^(-f/10), that is b^10 10^f <= (n 255^2)^10, in
    whole numbers."""
    bound, whole = Threat("psnr", Fraction(floor)).bound(values), (values * 255**2) ** 10
    assert bound**10 * 10**floor <= whole < (bound + 1) ** 10 * 10**floor


@pytest.mark.parametrize(
    ("written", "threat", "text"),
    [
        pytest.param("none", Threat("none", Fraction(0)), "none", id="none"),
        pytest.param({"norm": "none"}, Threat("none", Fraction(0)), "none", id="none-table"),
        pytest.param(
            {"norm": "linf", "eps": "8/255"},
            Threat("linf", Fraction(8, 255)),
            "linf<=8/255",
            id="linf",
        ),
        pytest.param(
            {"norm": "linf", "eps": " 16 / 510 "},
            Threat("linf", Fraction(8, 255)),
            "linf<=8/255",
            id="linf-blanks",
        ),
        pytest.param(
            {"norm": "linf", "eps": "0.5/255"},
            Threat("linf", Fraction(1, 510)),
            "linf<=1/510",
            id="linf-half-a-level",
        ),
        pytest.param(
            {"norm": "l2", "eps": "1/2"}, Threat("l2", Fraction(1, 2)), "l2<=1/2", id="l2"
        ),
        pytest.param({"norm": "l2", "eps": 1}, Threat("l2", Fraction(1)), "l2<=1", id="l2-whole"),
        pytest.param(
            {"norm": "psnr", "floor": 35}, Threat("psnr", Fraction(35)), "psnr>=35", id="psnr"
        ),
        pytest.param(
            {"norm": "psnr", "floor": 35.5},
            Threat("psnr", Fraction(71, 2)),
            "psnr>=35.5",
            id="psnr-fraction",
        ),
        pytest.param({"patch": 8}, Threat("patch", Fraction(8)), "patch8", id="patch"),
        pytest.param(
            {"norm": "patch", "patch": 8}, Threat("patch", Fraction(8)), "patch8", id="patch-norm"
        ),
    ],
)
def test_spellings(written, threat, text):
    assert parse_threat(written) == threat
    assert str(threat) == text
    assert parse_threat(threat.document()) == threat, (
        "the canonical form reads back as the same threat"
    )


@pytest.mark.parametrize(
    ("written", "said"),
    [
        pytest.param("linf", "no threat", id="word"),
        pytest.param(35, "expected", id="number"),
        pytest.param(None, "expected", id="nothing"),
        pytest.param([], "expected", id="list"),
        pytest.param({}, "names its norm", id="empty"),
        pytest.param({"eps": "8/255"}, "names its norm", id="no-norm"),
        pytest.param({"norm": "linv", "eps": "8/255"}, "did you mean 'linf'?", id="norm-typo"),
        pytest.param({"norm": 2, "eps": "8/255"}, "unknown norm", id="norm-number"),
        pytest.param({"norm": ["linf"]}, "unknown norm", id="norm-list"),
        pytest.param({"norm": "linf"}, "needs 'eps'", id="no-eps"),
        pytest.param({"norm": "linf", "epsilon": "8/255"}, "did you mean 'eps'?", id="eps-typo"),
        pytest.param(
            {"norm": "linf", "eps": "8/255", "floor": 35}, "unknown key 'floor'", id="two-bounds"
        ),
        pytest.param({"norm": "none", "eps": "1"}, "unknown key 'eps'", id="none-with-eps"),
        pytest.param({"patch": 8, "eps": 1}, "unknown key 'eps'", id="patch-with-eps"),
        pytest.param({"norm": "linf", "eps": "8/0"}, "divides by zero", id="by-zero"),
        pytest.param({"norm": "linf", "eps": "8/00"}, "divides by zero", id="by-zeros"),
        pytest.param({"norm": "linf", "eps": 0.031}, "write eps exactly", id="eps-float"),
        pytest.param({"norm": "l2", "eps": float("nan")}, "write eps exactly", id="eps-nan"),
        pytest.param({"norm": "linf", "eps": "8/25 5"}, "expected a number", id="eps-blank"),
        pytest.param({"norm": "linf", "eps": "8//255"}, "expected a number", id="eps-two-slashes"),
        pytest.param({"norm": "linf", "eps": "8/255/1"}, "expected a number", id="eps-three-parts"),
        pytest.param({"norm": "linf", "eps": "1e-2"}, "expected a number", id="eps-exponent"),
        pytest.param({"norm": "linf", "eps": "eight"}, "expected a number", id="eps-word"),
        pytest.param({"norm": "linf", "eps": ""}, "expected a number", id="eps-empty"),
        pytest.param({"norm": "linf", "eps": "9" * 400}, "expected a number", id="eps-endless"),
        pytest.param({"norm": "linf", "eps": "-8/255"}, "above 0", id="eps-negative"),
        pytest.param({"norm": "linf", "eps": 0}, "above 0", id="eps-zero"),
        pytest.param({"norm": "linf", "eps": True}, "expected a number", id="eps-flag"),
        pytest.param(
            {"norm": "psnr", "floor": float("inf")}, "expected a number", id="floor-infinite"
        ),
        pytest.param({"norm": "psnr", "floor": -3}, "above 0", id="floor-negative"),
        pytest.param({"norm": "psnr", "floor": 201}, "at most 200", id="floor-too-high"),
        pytest.param({"patch": 0}, "at least 1", id="patch-zero"),
        pytest.param({"patch": "5/2"}, "whole number", id="patch-fraction"),
        pytest.param({"patch": [8]}, "expected a number", id="patch-list"),
    ],
)
def test_every_bad_spelling_is_refused_with_its_place(written, said):
    with pytest.raises(PlanError) as caught:
        parse_threat(written, "protocol.threat")
    assert said in caught.value.message
    assert caught.value.message.startswith("protocol.threat")
    assert caught.value.exit_code == 2


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.sampled_from(["linf", "l2", "psnr", "8/255"]),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["norm", "eps", "floor", "patch", "x"]), inner)
        ),
        max_leaves=6,
    )
)
@example({"norm": "psnr", "floor": 1e300})
@example({"norm": "l2", "eps": "१/२"})  # digits, but not those of ASCII
def test_anything_at_all_is_a_threat_or_a_plan_error(value):
    try:
        threat = parse_threat(value)
    except PlanError:
        return
    bound = threat.bound(VALUES)
    assert bound is None or bound >= 0
    assert parse_threat(threat.document()) == threat
