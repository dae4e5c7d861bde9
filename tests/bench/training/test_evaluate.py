"""The numbers that go into a manifest, by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bench.api import Target, Units
from bench.training.evaluate import measure


def test_measured_by_hand():
    spent = torch.tensor([100, 60, 60, 20])
    decisions = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)

    class Told(Target):
        ceiling = 100
        units = replace(
            Units.gated(["a", "b0", "b1"], ["a", "b", "b"], [1, 1, 1]), shape=((), (2,), (2,))
        )

        def forward(self, images):
            assert not self.training
            assert not torch.is_autocast_enabled("cpu")
            rows = (images[:, 0, 0, 0] * 255).round().long()
            return SimpleNamespace(
                logits=torch.nn.functional.one_hot(rows % 3, 3).float(), decisions=decisions[rows]
            )

        def macs(self, decisions):
            return 20 + 40 * decisions[:, 1:].sum(1)

        def execute(self, image, decisions=None):
            return self(image)

    data = SimpleNamespace(
        labels=torch.tensor([0, 1, 2, 1]),
        images=lambda rows: torch.tensor(list(rows)).view(-1, 1, 1, 1).to(torch.uint8),
    )
    data = type(
        "Data",
        (),
        {"__len__": lambda self: 4, "labels": data.labels, "images": staticmethod(data.images)},
    )()
    with torch.autocast("cpu", torch.bfloat16):  # a data set may have left it on
        found = measure(Told(), data, batch=3)
    assert found.accuracy == 0.75
    assert found.clean_saving == pytest.approx(0.4)
    assert found.spread == pytest.approx(float(spent.double().std(correction=0)) / 100, abs=1e-6)
    assert found.rates == (1.0, 0.5, 0.5)
    assert found.opening_rates == (1.0, 0.5), "one number an owner"
    assert found.owners == (("a", "block", (), 1), ("b", "block", (2,), 2))
    assert found.gates_varying == 2
    assert found.ceiling == 100
