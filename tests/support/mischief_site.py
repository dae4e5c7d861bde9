"""Where the plugins of the contract tests lie, and a small plan on a toy of theirs."""

from pathlib import Path

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
