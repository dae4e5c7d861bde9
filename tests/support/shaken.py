"""A plugin of pytest that runs tests in another order, at another time, from other random seeds.

    PYTHONPATH=tests/support PYTHONHASHSEED=3 python -m pytest -p shaken --shaken 3 tests/attacks

Files come in a random order, and the tests of each; a file's tests stay together, since they share
what is made for them. The clock is put forward by some days, and the global random streams are
seeded anew before each test.
"""

import random
import time

import pytest

_time, _time_ns = time.time, time.time_ns
_DAY = 86_400


def pytest_addoption(parser):
    parser.addoption("--shaken", type=int, help="seed of the order, the clock and the streams")
    parser.addoption("--clock", type=int, default=0, help="seconds to put the clock forward by")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Before anything is imported for the tests."""
    seed = config.getoption("--shaken")
    ahead = config.getoption("--clock")
    if seed is not None:
        ahead += random.Random(seed).randrange(_DAY, 300 * _DAY)
    if ahead:
        time.time = lambda: _time() + ahead
        time.time_ns = lambda: _time_ns() + ahead * 10**9


def pytest_collection_modifyitems(config, items):
    seed = config.getoption("--shaken")
    if seed is None:
        return
    draw = random.Random(seed)
    files = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    groups = list(files.values())
    draw.shuffle(groups)
    for group in groups:
        draw.shuffle(group)
    items[:] = [item for group in groups for item in group]


def pytest_runtest_setup(item):
    seed = item.config.getoption("--shaken")
    if seed is None:
        return
    import numpy as np
    import torch

    draw = random.Random(f"{seed} {item.nodeid}")
    random.seed(draw.random())
    np.random.seed(draw.randrange(2**32))
    torch.manual_seed(draw.randrange(2**63))
