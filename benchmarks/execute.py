"""Whether executing less takes less time: wall time of `execute` against executed MACs, image by
image.

    python benchmarks/execute.py [WEIGHTS ...] [--images 60] [--repeats 7] [--threads 1]
    [--data-root FOLDER]

Without names, all shipped weights of dynamic networks on digits-m. Each image is executed `repeats`
times, in an order that goes through all images before it comes back to the first, so that a slow
moment of the machine meets all of them; its time is the median. Two extremes are timed in the same
way: nothing that can be left out runs, and all of it runs. Printed per network: the times and MACs
of the extremes, and of the line time = a + b MACs through the images its slope b (ns per 1000
MACs), its fit (R squared, the share of the variance between images that the line explains), and the
time that the average image saves against all units on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from bench import weights
from bench.api import Target
from bench.datasets.base import open_dataset, subset
from bench.executors.memory import keep_freed_memory
from bench.plugins import registry
from bench.plugins.parameters import as_arguments


def built(entry: weights.Entry) -> Target:
    """The network of a set of weights, frozen."""
    target: Target = registry.load("target", entry.target)(**as_arguments(entry.params))
    weights.load_entry(target, entry)
    return target.eval().requires_grad_(False)


def seconds(target: Target, image: Tensor, decisions: Tensor | None) -> float:
    """One execution of one image."""
    began = time.perf_counter()
    target.execute(image, decisions)
    return time.perf_counter() - began


def medians(target: Target, runs: list[tuple[Tensor, Tensor | None]], repeats: int) -> list[float]:
    """The median time of each (image, decisions), interleaved; a first round is not counted."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(repeats + 1):
        for place, (image, decisions) in enumerate(runs):
            took = seconds(target, image, decisions)
            if turn:
                times[place].append(took)
    return [statistics.median(column) for column in times]


def measure(name: str, images: int, repeats: int, data_root: Path | None) -> str:
    """One line about one network."""
    entry = weights.find(name)
    target = built(entry)
    dataset = "cifar10" if entry.dataset == "cifar10-jpeg" else entry.dataset
    data = open_dataset(f"{dataset}:test", data_root)
    pictures = data.images(subset(data, images)).to(torch.float32) / 255
    singles = list(pictures.split(1))
    macs = [int(target.macs(target.execute(image).decisions)) for image in singles]
    off, on = target.extremes()
    runs: list[tuple[Tensor, Tensor | None]] = [(image, None) for image in singles]
    found = medians(target, [*runs, (singles[0], off), (singles[0], on)], repeats)
    *own, least, most = found
    numbers = (
        f"{name:<40} off {least * 1e3:6.2f} ms {target.floor / 1e6:7.2f} M   "
        f"on {most * 1e3:6.2f} ms {target.ceiling / 1e6:7.2f} M"
    )
    saved = (
        f"   mean image {statistics.mean(own) / most:5.2f} of the time, "
        f"{statistics.mean(macs) / target.ceiling:5.2f} of the MACs"
    )
    if len(set(macs)) < 2:
        return f"{numbers}{saved}   the same MACs for every image"
    slope, _ = statistics.linear_regression(macs, own)
    fit = statistics.correlation(macs, own) ** 2
    return f"{numbers}{saved}   slope {slope * 1e12:6.1f} ns per 1000 MACs, R2 {fit:4.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", nargs="*")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-root", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    names = options.weights or [
        name
        for name, entry in weights.entries().items()
        if entry.dataset == "digits-m" and entry.opening_rates
    ]
    with torch.no_grad():
        for name in names:
            print(measure(name, options.images, options.repeats, options.data_root), flush=True)


if __name__ == "__main__":
    main()
