"""Targets that write every output into the same tensors: what was read before stays as it was."""

import torch

from bench.api import Output
from bench.evaluation.outputs import freeze
from bench.evaluation.score import score
from bench.evaluation.target_checks import examine
from bench.evaluation.view import TargetView
from bench.testing import ToyTarget, sample_images


class Reusing(ToyTarget):
    """Keeps one tensor for each thing that it returns, and of each size."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def forward(self, images, decisions=None):
        return self._reused(super().forward(images, decisions))

    def execute(self, image, decisions=None):
        return self._reused(super().execute(image, decisions))

    def macs(self, decisions):
        return self._same_place("macs", super().macs(decisions))

    def marginal_macs(self, decisions):
        return self._same_place("marginal", super().marginal_macs(decisions))

    def _reused(self, output):
        if torch.is_grad_enabled():
            return output
        names = ("logits", "margins", "logit_margins", "decisions")
        return Output(*(self._same_place(name, getattr(output, name)) for name in names))

    def _same_place(self, name, value):
        place = self.kept.setdefault((name, tuple(value.shape)), value.clone())
        return place.copy_(value)


def pair():
    """A target that reuses memory, one that does not, dark images and bright ones."""
    targets = Reusing(), ToyTarget()
    for target in targets:
        freeze(target)
    images = sample_images((3, 8, 8))
    return *targets, images * 0.5, 1 - images * 0.5


def test_scores_are_not_those_of_the_next_images():
    reusing, plain, dark, bright = pair()
    ids = [f"x{i}" for i in range(len(dark))]
    before, _ = score(reusing, dark, ids, 0), score(reusing, bright, ids, 0)
    expected = score(plain, dark, ids, 0)
    assert not torch.equal(score(plain, bright, ids, 0).first, expected.first)
    assert torch.equal(before.first, expected.first)
    assert torch.equal(before.output.decisions, expected.output.decisions)
    assert torch.equal(before.output.logits, expected.output.logits)


def test_what_an_attack_holds_is_not_of_its_next_evaluation():
    reusing, plain, dark, bright = pair()
    rows, held = torch.arange(len(dark)), []
    for target in (reusing, plain):
        view = TargetView.of(target, dark, 10)
        first = view(dark, rows)
        price, marginal = view.price(first.decisions), view.marginal_macs(first.decisions)
        second = view(bright, rows)
        view.price(second.decisions), view.marginal_macs(second.decisions)
        view.macs(bright, rows)
        traces = [view.ledger.trace(row) for row in range(len(dark))]
        held.append((first, price, marginal, traces))
    (mine, *costs, trace), (other, *expected, true) = held
    assert torch.equal(mine.decisions, other.decisions)
    assert torch.equal(mine.margins, other.margins)
    assert all(torch.equal(a, b) for a, b in zip(costs, expected, strict=True))
    assert trace == true


def test_checks_find_nothing_wrong_with_it():
    reusing, plain, dark, bright = pair()
    images = torch.cat([dark, bright])
    assert examine(reusing, images) == examine(plain, images)
