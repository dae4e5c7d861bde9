"""Two workers against one, on cells that only compute.

    python -m benchmarks.workers [--images 320] [--budget 150] [--workers 1 2]

The same run of two targets with each number of workers, in a folder of its own. Printed are seconds
of the wall clock, also until the first worker began and from then on; seconds of the processor; the
share of the time between the first start and the last end that the workers were at work, the rest
being waits for tasks, for one another and for the parent; and the speed of the whole run against
the first number of workers. Where other programs use the cores, the wall clock says little; the
processor time and the share at work still show what is done twice and what waits. Ends with 1 where
the speed is below the last column, on idle cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.contracts.executor import Event, Task
from bench.plans.resolve import load_plan
from bench.runs.layout import lay_out
from bench.runs.run import Run

SHARE = 0.9
"""Speed that is promised: this times the number of workers."""
PLAN = """
schema = 1
[protocol]
dataset = "digits-m:test"
images = {images}
batch = 16
threat = {{ norm = "psnr", floor = 35 }}
budget = {budget}
audit = 1
[run]
device = "cpu"
shard = 16
workers = {workers}
[[target]]
use = "skipnet"
weights = "skipnet-20-budget@digits-m"
[[target]]
use = "skipnet"
weights = "skipnet-20-hrl@digits-m"
[[attack]]
use = "gradauto"
"""


@dataclass
class Observed:
    """What a run did, and when.

    Attributes:
        began: when the run began.
        first: when the first shard was handed to a worker.
        last: when the last one was done.
        busy: seconds that shards took, added up.
    """

    began: float = field(default_factory=time.monotonic)
    first: float = 0.0
    last: float = 0.0
    busy: float = 0.0
    _since: dict[tuple[str, int], float] = field(default_factory=dict)

    def hear(self, event: Event) -> None:
        """Note a start or an end."""
        now, which = time.monotonic(), (event.task.key, event.task.first)
        if event.what == "started":
            self.first = self.first or now
            self._since[which] = now
        elif event.what == "done":
            self.last = now
            self.busy += now - self._since.pop(which)


def processor_seconds() -> float:
    """Of this process, of all that came of it and lives, and of all whose end was noticed."""
    tick = os.sysconf("SC_CLK_TCK")
    children: dict[int, list[int]] = {}
    spent: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        number = int(path.parent.name)
        children.setdefault(int(fields[1]), []).append(number)
        spent[number] = sum(map(int, fields[11:15])) / tick
    total, left = 0.0, [os.getpid()]
    while left:
        number = left.pop()
        total += spent.get(number, 0.0)
        left += children.get(number, [])
    return total


def measured(workers: int, images: int, budget: int) -> tuple[Observed, float, float]:
    """One run: what was seen, its seconds of the wall clock and of the processor."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plan = folder / "plan.toml"
        plan.write_text(PLAN.format(images=images, budget=budget, workers=workers))
        before, seen = processor_seconds(), Observed()
        laid = lay_out(load_plan(plan), folder, "run", "gatebench run plan.toml", None)
        outcome = Run(laid)(_silent, seen.hear)
        assert outcome.is_clean, outcome.problems
        return seen, time.monotonic() - seen.began, processor_seconds() - before


def _silent(tasks: Sequence[Task], there: int) -> None:
    """Nobody waits for what is to be done."""


def main() -> int:
    """Print a line for each number of workers; 1 where one of them is slower than promised."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--budget", type=int, default=150)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    chosen = parser.parse_args()
    measured(1, 16, 6)  # the server that workers are forked from is there in every measured run
    print("| workers | wall, s | before, s | computing, s | CPU, s | at work | speed | at least |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    first, held = 0.0, True
    for workers in chosen.workers:
        seen, wall, cpu = measured(workers, chosen.images, chosen.budget)
        computing = seen.last - seen.first
        first = first or wall
        compared = workers != chosen.workers[0]
        least = SHARE * workers / chosen.workers[0]
        held &= not compared or first / wall >= least
        print(
            f"| {workers} | {wall:.1f} | {seen.first - seen.began:.1f} | {computing:.1f} "
            f"| {cpu:.1f} | {seen.busy / (workers * computing):.0%} "
            f"| {first / wall:.2f} | {f'{least:.2f}' if compared else ''} |",
            flush=True,
        )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
