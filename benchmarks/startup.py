"""What starting costs beside the import of torch: commands that only read, and a worker.

    python -m benchmarks.startup [--repeats 5]

A demonstration of 8 cells is made first. Every start is a process of its own; they take turns with
a process that only imports torch, and the ratio is the median over the turns. Seconds are of the
processor. Ends with 1 where one takes longer than column "at most" says.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import write_run

PYTHON = [sys.executable, "-c"]
GATEBENCH = [sys.executable, "-m", "bench"]
STARTS: dict[str, tuple[list[str], float | None]] = {
    "`gatebench --help`": ([*GATEBENCH, "--help"], None),
    "`gatebench list`": ([*GATEBENCH, "list"], None),
    "`gatebench plan quickstart`": ([*GATEBENCH, "plan", "quickstart"], None),
    "`gatebench show RUN`": ([*GATEBENCH, "show", "RUN"], 1.5),
    "a worker's imports": ([*PYTHON, "import bench.executors.preload"], None),
}


def seconds(command: list[str]) -> float:
    """Processor seconds of a command and of all that it starts."""
    before = os.times()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def main() -> int:
    """Print the table; 1 where a bound does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        write_run(run, cells=28, images=32, targets=4, shard=32)
        starts = {
            name: ([str(run) if word == "RUN" else word for word in command], bound)
            for name, (command, bound) in STARTS.items()
        }
        torch = [*PYTHON, "import torch"]
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in starts}
        for turn in range(repeats + 1):
            bare = seconds(torch)
            for name, (command, _) in starts.items():
                spent = seconds(command)
                if turn:  # the first one reads from disk
                    took[name].append((spent, spent / bare))
    print(f"medians of {repeats}\n")
    print("| start | CPU s | beside `import torch` | at most, s |")
    print("|---|---:|---:|---:|")
    held = True
    for name, (_, bound) in starts.items():
        spent, ratio = (statistics.median(each) for each in zip(*took[name], strict=True))
        held &= bound is None or spent <= bound
        print(f"| {name} | {spent:.2f} | {ratio:.2f} | {'' if bound is None else bound} |")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
