"""A gate that fires when something got worse: not on noise, and not never."""

from dataclasses import replace

import numpy as np
import pytest
from measured import baseline, board, cell, redrawn, with_cells

from bench.errors import NotComparable, PlanError
from bench.regression.check import EFFECTS, check
from bench.regression.verdict import CheckedMeasure
from bench.results import paired
from bench.store.latency import Latency, Machine, Timed


def rng(seed):
    return np.random.default_rng(seed)


def test_what_rounds_to_zero_has_no_sign_in_words():
    one = CheckedMeasure(
        *("net", "", "pry", "surviving-saving", -0.0002, -0.0004, 0.01, 0.0002, -0.0004, 0.0003),
        *(1.0, False, 20),
    )
    assert one.words == (
        "net / pry: surviving saving 0.0 % -> 0.0 % (0.0 points, 95 % interval 0.0 to 0.0; may "
        "lose 1)"
    )


def test_a_change_beyond_what_may_be_lost_does_not_read_like_it():
    one = CheckedMeasure(
        *("net", "", "pry", "surviving-saving", 0.4, 0.38996, 0.01, 0.01004, 0.009, 0.011),
        *(0.01, True, 20),
    )
    assert one.words == (
        "net / pry: surviving saving 40.000 % -> 38.996 % (-1.004 points, 95 % interval -1.100 "
        "to -0.900, p = 0.01; may lose 1)"
    )
    exact = replace(one, worse=0.012345678, effect=0.012345677)
    assert "-1.2345678 points" in exact.words
    assert "may lose 1.2345677)" in exact.words


def test_what_was_lost_to_the_point_is_no_regression():
    """A loss of exactly what may be lost, which division puts a hair beyond."""
    before = baseline([cell(rng(0))])
    then = np.full_like(before.boards[0].cells[0].adversarial_macs, 690)
    before = with_cells(before, lambda one: replace(one, adversarial_macs=then))
    now = with_cells(before, lambda one: replace(one, adversarial_macs=then + 10))
    assert float(((1 - then / 1000) - (1 - (then + 10) / 1000)).mean()) > 0.01
    verdict = check(before, now)
    assert verdict.passed, verdict.summary()
    assert "none worse than allowed" in verdict.summary()
    assert not check(before, now, effects={"surviving-saving": 0.0099}).passed


def test_nothing_changed_passes_and_says_the_same_twice():
    before = board(rng(0))
    first, second = check(before, before), check(before, before)
    assert first == second
    assert first.passed
    assert all(one.p == 1 and one.worse == 0 for one in first.comparisons)
    assert first.summary() == "check: 33 comparisons on 256 images, none worse than allowed: pass"


@pytest.mark.slow  # 1000 pairs of draws
def test_false_alarms_stay_under_alpha():
    """1000 pairs of draws of one project, three targets under three attacks. Allowed: 5 %, and
    three standard errors of such a count.

    Whatever is an alarm with its effect is one without, so the test alone must keep its promise;
    with effects there are no more.
    """
    project, generator = board(rng(1)), rng(2)
    alone = with_effect = 0
    for _ in range(1000):
        before, now = redrawn(project, generator), redrawn(project, generator)
        if not check(before, now, effects=dict.fromkeys(EFFECTS, 0.0)).passed:
            alone += 1
            with_effect += not check(before, now).passed
    assert with_effect <= alone <= 1000 * 0.05 + 3 * (1000 * 0.05 * 0.95) ** 0.5


@pytest.mark.slow  # 1000 pairs of draws
def test_the_test_is_not_idle():
    """Where one thing is compared and its effect is nothing, the test fires about as often as it
    says."""
    clean = rng(3).binomial(10, 0.6, size=256), np.ones(256, dtype=bool)
    project, generator = baseline([cell(rng(3), clean=clean)]), rng(4)
    alarms = 0
    for _ in range(1000):
        verdict = check(
            redrawn(project, generator),
            redrawn(project, generator),
            effects=dict.fromkeys(EFFECTS, 0.0),
            alpha=0.3,
        )
        alarms += not verdict.passed
    assert 0.3 * 1000 / 3 <= alarms <= 0.3 * 1000 + 3 * (1000 * 0.3 * 0.7) ** 0.5


SLOW = pytest.mark.slow  # 100 pairs of draws each; the noisiest is the hardest


@pytest.mark.parametrize(
    "share",
    [
        pytest.param(0.0, marks=SLOW, id="no-noise"),
        pytest.param(0.1, marks=SLOW, id="some-noise"),
        pytest.param(0.2, id="most-noise"),
    ],
)
def test_two_points_on_256_images_are_found(share):
    """A fifth of the images run one more tenth under attack, beside the noise of two draws: at
    least 95 of 100 are found."""
    project = board(rng(4))
    found = 0
    for seed in range(100):
        generator = rng(100 + seed)
        planted = redrawn(worse_under_one_attack(project, generator), generator, share)
        verdict = check(redrawn(project, generator, share), planted)
        found += any(
            one.measure == "surviving-saving" and (one.target, one.attack) == ("net1", "attack1")
            for one in verdict.failures
        )
    assert found >= 95


def worse_under_one_attack(project, generator):
    def worse(one):
        if (one.target, one.attack) != ("net1", "attack1"):
            return one
        room = (one.adversarial_macs < 1000).nonzero()[0]
        macs = one.adversarial_macs.copy()
        macs[generator.choice(room, size=round(0.2 * 256), replace=False)] += 100
        return replace(one, adversarial_macs=macs)

    return with_cells(project, worse)


def shifted(name, amount):
    def change(one):
        return replace(one, **{name: np.clip(getattr(one, name) + amount, 0, 1000)})

    return change


def test_a_weaker_attack_on_an_unchanged_target_is_a_regression_and_on_a_changed_one_an_improvement():
    before = board(rng(5), targets=1, attacks=1)
    weaker = with_cells(before, shifted("adversarial_macs", -100))
    verdict = check(before, weaker)
    assert [one.measure for one in verdict.failures] == ["attack-strength"]
    assert "attack strength" in verdict.summary()

    def retrained(one):
        macs = one.clean_macs.copy()
        macs[0] += 1
        kinds = {**one.inputs, "target": {**one.inputs["target"], "weights": "w2"}}
        return replace(shifted("adversarial_macs", -100)(one), clean_macs=macs, inputs=kinds)

    verdict = check(before, with_cells(before, retrained))
    assert verdict.passed
    assert "attack-strength" not in {one.measure for one in verdict.comparisons}
    assert any("weights changed" in note for note in verdict.notes)


def test_one_clean_image_at_its_threshold_hides_no_dead_attack():
    before = board(rng(16), targets=1, attacks=1)

    def dead(one):
        macs = one.clean_macs.copy()
        macs[3] += 100
        return replace(one, clean_macs=macs, adversarial_macs=macs)

    verdict = check(before, with_cells(before, dead))
    assert [one.measure for one in verdict.failures] == ["attack-strength"]


def test_strength_that_is_not_compared_is_said():
    before = board(rng(17), targets=1, attacks=1)
    cheaper = with_cells(
        before,
        lambda one: replace(
            one, clean_macs=one.clean_macs - 100, adversarial_macs=one.adversarial_macs - 200
        ),
    )
    verdict = check(before, cheaper)
    assert verdict.passed
    assert any(
        "its target changed, so the strength of the attack is not compared" in note
        for note in verdict.notes
    )


def test_worse_but_not_beyond_chance_is_said_in_the_summary():
    before = board(rng(8), n=12, targets=1, attacks=1)

    def three(one):
        macs = one.adversarial_macs.copy()
        macs[(macs < 1000).nonzero()[0][:3]] += 100
        return replace(one, adversarial_macs=macs)

    verdict = check(before, with_cells(before, three))
    assert verdict.passed
    said = verdict.summary()
    assert "1 worse than allowed but not beyond chance; of 1 nobody can tell" in said
    assert "net0 / attack0: surviving saving" in said


def test_a_check_that_could_never_fail_is_refused():
    few = board(rng(18), n=4, targets=1, attacks=1)
    with pytest.raises(NotComparable, match="could never fail"):
        check(few, few)


def test_a_board_that_the_baseline_does_not_have_is_said():
    one = cell(rng(19))
    before = baseline([one])
    other = replace(before.boards[0], protocol=replace(before.boards[0].protocol, seed=1))
    verdict = check(before, replace(before, boards=(*before.boards, other)))
    assert any(
        note.startswith("NOT IN THE BASELINE") and "seed 1" in note for note in verdict.notes
    )


def test_each_measure_can_fail_and_improvement_never_does():
    before = board(rng(6), targets=1, attacks=1)
    wrong = np.zeros(256, dtype=bool)
    for name, value, measure in (
        ("clean_macs", None, "clean-saving"),
        ("adversarial_macs", None, "surviving-saving"),
        ("clean_correct", wrong, "clean-accuracy"),
        ("adversarial_correct", wrong, "adversarial-accuracy"),
    ):
        change = (
            shifted(name, 100)
            if value is None
            else lambda one, name=name, value=value: replace(one, **{name: value})
        )
        verdict = check(before, with_cells(before, change))
        assert measure in {one.measure for one in verdict.failures}
    better = with_cells(
        before,
        lambda one: replace(
            one, clean_macs=one.clean_macs - 100, adversarial_macs=one.adversarial_macs - 200
        ),
    )
    assert check(before, better).passed


def test_a_sure_change_smaller_than_the_effect_passes():
    before = board(rng(7), targets=1, attacks=1)
    slightly = with_cells(
        before, shifted("adversarial_macs", 5)
    )  # half a point on every image: no test would miss it
    assert check(before, slightly).passed
    assert not check(before, slightly, effects={"surviving-saving": 0.001}).passed


def test_a_large_change_of_few_images_is_no_proof():
    before = board(rng(8), n=12, targets=1, attacks=1)

    def three(one):
        macs = one.adversarial_macs.copy()
        macs[:3] = np.minimum(macs[:3] + 300, 1000)
        return replace(one, adversarial_macs=macs)

    verdict = check(before, with_cells(before, three))
    worst = max(verdict.comparisons, key=lambda one: one.worse)
    assert worst.worse > 0.01
    assert verdict.passed


def test_too_few_differing_images_are_no_ok():
    """Two images of 32 that lose everything: by more than allowed, but any test would miss it."""
    before = baseline([cell(np.random.default_rng(0), n=32)])

    def lost(one):
        macs = one.adversarial_macs.copy()
        macs[:2] = one.reference
        return replace(one, adversarial_macs=macs)

    found = check(before, with_cells(before, lost), effects={"surviving-saving": 0.0})
    verdicts = {one.measure: one.verdict for one in found.comparisons}
    assert verdicts["surviving-saving"] == "cannot tell"
    assert verdicts["clean-saving"] == "ok"
    assert found.passed
    assert "nobody can tell, since fewer images differ than the test needs" in found.summary()

    def all_lost(one):
        return replace(one, adversarial_macs=np.full(32, one.reference))

    found = check(before, with_cells(before, all_lost))
    assert {one.verdict for one in found.failures} == {"worse"}


def test_what_an_attack_does_not_change_is_compared_once():
    verdict = check(board(rng(9)), board(rng(9)))
    measures = [one.measure for one in verdict.comparisons]
    assert measures.count("clean-accuracy") == measures.count("clean-saving") == 3
    assert measures.count("surviving-saving") == 9


def test_controls_are_held_to_accuracy_alone():
    generator = rng(10)
    control = cell(generator, attack="accuracy", control=True)
    identity = replace(
        control,
        attack="identity",
        adversarial_macs=control.clean_macs,
        adversarial_correct=control.clean_correct,
    )
    verdict = check(baseline([control, identity]), baseline([control, identity]))
    assert [(one.attack, one.measure) for one in verdict.comparisons] == [
        ("", "clean-saving"),
        ("", "clean-accuracy"),
        ("accuracy", "adversarial-accuracy"),
    ]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        pytest.param(
            "dataset",
            "cifar10:test",
            "dataset was 'digits-m:test', is 'cifar10:test'",
            id="dataset",
        ),
        pytest.param("subset", "xyz", "the image subset is another one", id="subset"),
        pytest.param("threat", {"norm": "psnr", "floor": "30"}, "threat was ", id="threat"),
        pytest.param("budget", 100, "budget was 60, is 100", id="budget"),
        pytest.param("batch", 50, "batch was 32, is 50", id="batch"),
        pytest.param("seed", 1, "seed was 0, is 1", id="seed"),
    ],
)
def test_other_terms_are_refused_by_name(name, value, said):
    one = cell(rng(11))
    with pytest.raises(NotComparable) as refused:
        check(baseline([one]), baseline([one], protocol={name: value}))
    assert said in refused.value.message
    assert refused.value.exit_code == 9


def test_missing_images_cells_and_other_attack_parameters_are_refused():
    one = cell(rng(12))
    before = baseline([one])
    part = before.boards[0]
    with pytest.raises(NotComparable, match="it lacks 1 image, i255 first"):
        check(before, replace(before, boards=(replace(part, ids=part.ids[:-1]),)))
    with pytest.raises(NotComparable, match="the run has no cell 'net / gradauto'; did you mean"):
        check(before, baseline([replace(one, attack="gradautos")]))
    with pytest.raises(NotComparable, match="net / gradauto: steps was 10, is 20"):
        check(before, baseline([cell(rng(12), steps=20)]))


def test_what_is_new_is_said_loudly():
    generator = rng(13)
    one, two = cell(generator), cell(generator, target="other")
    verdict = check(baseline([one]), baseline([one, two]))
    assert verdict.passed
    assert any(
        note.startswith("NOT IN THE BASELINE") and "other / gradauto" in note
        for note in verdict.notes
    )


def test_time_only_warns_and_never_across_machines():
    one = cell(rng(14))
    machine = Machine("a", 1, "2", "3")
    times = Latency(machine, (Timed("net", "", 1.0, 1.0, None, 2, 2),))
    slow = Latency(machine, (Timed("net", "", 2.0, 2.0, None, 2, 2),))
    verdict = check(baseline([one], latency=times), baseline([one], latency=slow))
    assert verdict.passed
    assert verdict.notes == ("warning: net takes 2.00 times as long as in the baseline",)
    fewer = replace(slow, entries=(replace(slow.entries[0], images=1),))
    assert check(baseline([one], latency=times), baseline([one], latency=fewer)).notes == (
        "latency of net was timed on 1 image, the baseline's on 2: not compared",
    )
    elsewhere = replace(slow, machine=replace(machine, device="b"))
    assert check(baseline([one], latency=times), baseline([one], latency=elsewhere)).notes == (
        "latency was measured on another machine than the baseline's: not compared",
    )


def test_options_that_make_no_sense():
    one = baseline([cell(rng(15))])
    with pytest.raises(PlanError, match="did you mean 'clean-saving'"):
        check(one, one, effects={"clean-savings": 0.1})
    for alpha in (2, 0, 1e-9, float("nan")):
        with pytest.raises(PlanError, match=f"alpha = {alpha}"):
            check(one, one, alpha=alpha)


def test_one_sided_p_by_hand():
    d = np.array([1.0, 2.0, 3.0])
    assert paired.sign_flip_p(d, one_sided=True) == 1 / 8
    assert paired.sign_flip_p(-d, one_sided=True) == 1.0
    assert paired.sign_flip_p(d) == 2 / 8
    many = np.ones(30)
    assert paired.sign_flip_p(many, one_sided=True) == pytest.approx(np.exp(-15))
