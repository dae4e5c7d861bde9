"""A table of ratios: an attack step beside the bare network, by family, depth and defense.

    python -m benchmarks [--batch 32] [--repeats 9] [--depth 20 --depth 38]

Written as Markdown; "least" is the ratio of the convolutions that the step cannot do without.
Ends with 1 where a bound does not hold. How long boards and their pages take
is measured by
benchmarks/report.py, whether executing less takes less time by benchmarks/execute.py.
"""

from __future__ import annotations

import argparse
import sys

import torch

from bench.executors.memory import keep_freed_memory
from bench.store.provenance import deterministic
from benchmarks.steps import cases, measure


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--depth", type=int, action="append")
    options = parser.parse_args()
    keep_freed_memory()  # as every worker does
    deterministic(1)
    torch.manual_seed(0)
    print(f"{options.batch} images, 1 thread, medians of {options.repeats}\n")
    print("| step of `gradauto:code` | step, ms | bare, ms | ratio | least | at most |")
    print("|---|---:|---:|---:|---:|---:|")
    held = True
    for case in cases(tuple(options.depth or (20, 38)), options.batch):
        found = measure(case, options.batch, options.repeats)
        bound, least = (
            "" if number is None else f"{number:.2f}" for number in (found.bound, found.least)
        )
        held &= found.bound is None or found.ratio <= found.bound
        print(
            f"| {found.name} | {1e3 * found.step:.0f} | {1e3 * found.bare:.0f} "
            f"| {found.ratio:.2f} | {least} | {bound} |",
            flush=True,
        )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
