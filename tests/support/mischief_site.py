"""Where the plugins of the contract tests lie, a small plan on a toy of theirs, and runs of it."""

import contextlib
from pathlib import Path

import pytest

SITE = Path(__file__).resolve().parents[1] / "contract" / "site"
"""A folder for PYTHONPATH: a distribution "mischief" with good and malicious plugins, and "rival",
which takes one of its names."""

TOY_PLAN = """# A plan for tests.
schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 6
batch = 3
threat = { norm = "linf", eps = "8/255" }
budget = 9
audit = 1
[run]
device = "cpu"
shard = 3
[[target]]
use = "toy"
weights = "random:0"
[[attack]]
use = "still"
[[attack]]
use = "wander"
"""


@contextlib.contextmanager
def finished_run(folder, plan=TOY_PLAN, name="r"):
    """The folder of a finished run of a plan, made in this process; while it is used, the plugins
    of the contract tests are found.

    Args:
        folder: gets plan.toml and the run.
        plan: its text.
        name: of the run.
    """
    from bench.cli import main
    from bench.plugins import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SITE))
        registry.providers.cache_clear()
        (folder / "plan.toml").write_text(plan)
        arguments = ["--out", str(folder), "--name", name, "--in-process", "--no-report"]
        with pytest.raises(SystemExit) as end:
            main(["run", str(folder / "plan.toml"), *arguments])
        assert end.value.code == 0
        yield folder / name
    registry.providers.cache_clear()
