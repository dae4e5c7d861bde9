"""The example keeps its contracts, and its attack finds what there is to find."""

from gatebench_example.margin_sign import MarginSign
from gatebench_example.two_exits import TwoExits

from bench.testing import check_attack, check_target, problems


def test_target_keeps_its_contract():
    assert problems(check_target(TwoExits())) == []


def test_attack_keeps_its_contract():
    assert problems(check_attack(MarginSign(), TwoExits(confidence=0.2))) == []


def test_macs_by_hand():
    target = TwoExits()
    assert target.floor == 16 * 16 * 448 + 170
    assert target.ceiling == target.floor + 8 * 8 * 4640 + 330
