"""What a clock of a run sees of a device that works on its own."""

from types import SimpleNamespace

import pytest
import torch

from bench.analysis.latency import _timed


@pytest.mark.parametrize(
    ("device", "waits"),
    [
        pytest.param("cpu", [], id="cpu"),
        pytest.param("cuda:1", ["cuda:1"] * 3, id="second-gpu"),
        pytest.param("mps:0", ["mps:0"] * 3, id="apple"),
    ],
)
def test_the_clock_stops_when_the_device_of_the_images_is_done(monkeypatch, device, waits):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    target = SimpleNamespace(execute=lambda image: image)
    assert len(_timed(target, [torch.zeros(1)] * 3, device)) == 3
    assert waited == waits
