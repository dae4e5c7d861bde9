"""What all tests share: a home of their own, one thread, and the plugins of `tests/contract/site`
where a test asks for them."""

import gc
import os
import signal
import sys
import threading

import pytest
from hypothesis import HealthCheck, settings
from mischief_site import SITE, TOY_PLAN
from named_cases import pytest_make_parametrize_id as pytest_make_parametrize_id

if threading.current_thread() is threading.main_thread():
    # A shell that starts the tests in the background has them ignore SIGINT, and children inherit
    # that: Ctrl-C could not be tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)


os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported: small tensors, few cores, the same numbers everywhere


settings.register_profile(
    "gatebench",
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gatebench")


gc.disable()  # until everything is collected


def pytest_collection_finish():
    """What was imported and collected stays: it need not be looked through for garbage again and
    again, which took a tenth of the time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory):
    """Nobody's own data, weights or measured speeds are read or written by a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATEBENCH_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def plugins(monkeypatch):
    """The plugins of `tests/contract/site`, importable and registered in this process."""
    from bench.plugins import registry

    monkeypatch.syspath_prepend(str(SITE))
    registry.providers.cache_clear()
    yield
    registry.providers.cache_clear()


def environment(**extra: str) -> dict[str, str]:
    """The environment of a child process that sees the plugins of `tests/contract/site`."""
    path = os.pathsep.join([str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "PYTHON": sys.executable,
        "NO_COLOR": "1",
        "COLUMNS": "200",
        **extra,
    }


@pytest.fixture(scope="session")
def child_environment():
    """`environment`, for tests that start processes."""
    return environment


@pytest.fixture
def gatebench(tmp_path, monkeypatch, capfd, plugins):
    """Run a command in this process, in a folder with a small plan of toys, plan.toml: (exit code,
    stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "plan.toml").write_text(TOY_PLAN)
    before = signal.getsignal(signal.SIGTERM)

    from bench.cli import main

    def call(*args):
        with pytest.raises(SystemExit) as end:
            main(list(args))
        out, err = capfd.readouterr()
        return end.value.code, out, err

    yield call
    signal.signal(signal.SIGTERM, before)
