"""The simulation of many workers in benchmarks/scale.py: what must hold whatever is drawn."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[3] / "benchmarks" / "scale.py"


@pytest.fixture(scope="module")
def scale():
    spec = importlib.util.spec_from_file_location("scale_simulation", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale_simulation"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["scale_simulation"]


def run(scale, how, durations, **world):
    calm = {"uneven": 0.0, "losses": 0.0, "start": 0.0, **world}
    found = getattr(scale, how)(durations, scale.World(**calm), np.random.default_rng(0))
    assert found.makespan >= found.ideal - 1e-9
    return found


@pytest.mark.parametrize("how", ["dynamic", "static"])
def test_equal_shards_on_equal_workers_take_their_share_of_the_work(scale, how):
    found = run(scale, how, np.full((2, 80), 3.0), workers=20)
    assert found.makespan == pytest.approx(2 * 80 * 3.0 / 20)
    assert (found.half_idle, found.lost) == (0.0, 0)


def test_shards_that_are_handed_out_wait_for_nobody(scale):
    durations = np.ones((1, 2000))
    durations[0, :200] = 20.0
    handed, own = (run(scale, how, durations, workers=10) for how in ("dynamic", "static"))
    assert handed.makespan < 1.4 * handed.ideal
    assert own.makespan > 6 * own.ideal


@pytest.mark.parametrize("how", ["dynamic", "static"])
def test_losses_cost_time_and_every_shard_is_done_all_the_same(scale, how):
    durations = np.random.default_rng(1).uniform(1, 5, (3, 400))
    calm = run(scale, how, durations, workers=12)
    lossy = run(scale, how, durations, workers=12, losses=60.0, back=5.0)
    assert lossy.lost > 0
    assert lossy.makespan > calm.makespan


def test_times_are_read_from_a_log(scale, tmp_path):
    (tmp_path / "log.txt").write_text(
        "10:00:00 a + b / c d=1 [0-31] done 64.0 s\n10:00:01 a / x [32-63] started\n"
        "10:00:02 a + b / c d=1 [32-47] done 16.0 s\nplugins may print [0-1] anything\n"
    )
    assert scale.seconds_an_image(tmp_path) == {"a + b / c d=1": [2.0, 1.0]}
