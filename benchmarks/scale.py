"""A simulation of a run on many workers: how long it takes, who is waited for, what
the driver holds.

    python -m benchmarks.scale runs/quickstart --images 10_000_000 --workers 1000

Shard times and sizes are those of a finished run (its log.txt and its shards), an image; they are
drawn again for every shard of the simulated run. The spread of workers, how often one is lost, and
what a start costs are assumptions, and printed. Memory of the driver and the time of its writes
are measured here.
"""

from __future__ import annotations

import argparse
import heapq
import json
import re
import sys
import tempfile
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.contracts.executor import Task
from bench.executors.on_ray import SHARDS_A_TASK
from bench.files.atomic import write_atomic
from bench.plans.stored import read_plan
from bench.store.folder import CellFolder, RunFolder, find_run

Array = npt.NDArray[np.float64]

_DONE = re.compile(
    r"^\S+ (?P<label>.+) \[(?P<first>\d+)-(?P<last>\d+)\] done (?P<seconds>[\d.]+) s$"
)


@dataclass(frozen=True)
class World:
    """What is assumed of the workers.

    Attributes:
        workers: how many.
        uneven: standard deviation of the logarithm of a worker's speed.
        losses: of a worker, an hour.
        back: seconds until a lost worker is there again.
        start: seconds that a new process takes to import what it needs.
    """

    workers: int = 1000
    uneven: float = 0.1
    losses: float = 0.05
    back: float = 120.0
    start: float = 10.0


@dataclass(frozen=True)
class Course:
    """How a simulated run went.

    Attributes:
        makespan: seconds until the last shard was there.
        ideal: seconds if all workers were busy to the end and nothing was lost.
        half_idle: seconds at the end in which half of the workers had nothing to do.
        lost: shards that were computed twice.
        starts: processes that were started.
    """

    makespan: float
    ideal: float
    half_idle: float
    lost: int
    starts: int


def seconds_an_image(run: Path) -> dict[str, list[float]]:
    """Label of a cell -> seconds an image of each of its shards, from a run's log."""
    found: dict[str, list[float]] = defaultdict(list)
    for line in (run / "log.txt").read_text(encoding="utf-8").splitlines():
        if match := _DONE.match(line):
            images = int(match["last"]) - int(match["first"]) + 1
            found[match["label"]].append(float(match["seconds"]) / images)
    return dict(found)


def drawn(
    times: Mapping[str, list[float]], shards: int, size: int, generator: np.random.Generator
) -> Array:
    """(cells, shards) seconds of each shard of `size` images, drawn from the measured ones."""
    return np.stack([generator.choice(each, shards) * size for each in times.values()])


def dynamic(
    durations: Array, world: World, generator: np.random.Generator, group: int = SHARDS_A_TASK
) -> Course:
    """Groups of shards are handed to whoever is free; what a lost worker had not finished is handed
    out again."""
    queue = [
        part
        for row in durations
        for part in np.split(row, range(group, len(row), group))
        if len(part)
    ]
    queue.reverse()
    speed = np.exp(generator.normal(0, world.uneven, world.workers))
    free = [(0.0, worker) for worker in range(world.workers)]
    ends = np.zeros(world.workers)
    lost = starts = 0
    rate = world.losses / 3600
    while queue:
        now, worker = heapq.heappop(free)
        part = queue.pop()
        done = now + world.start + np.cumsum(part * speed[worker])
        starts += 1
        gone = now + (generator.exponential(1 / rate) if rate else np.inf)
        if gone < done[-1]:
            kept = int(np.searchsorted(done, gone, side="right"))
            queue.append(part[kept:])
            lost += 1
            ends[worker] = max(ends[worker], done[kept - 1] if kept else 0.0)
            heapq.heappush(free, (gone + world.back, worker))
        else:
            ends[worker] = done[-1]
            heapq.heappush(free, (float(done[-1]), worker))
    return _course(ends, durations, speed, lost, starts)


def static(durations: Array, world: World, generator: np.random.Generator) -> Course:
    """`--share i/n`: each worker has its own part of the row of all shards, and keeps it."""
    speed = np.exp(generator.normal(0, world.uneven, world.workers))
    ends, lost, starts = np.zeros(world.workers), 0, 0
    for worker, part in enumerate(np.array_split(durations.ravel(), world.workers)):
        starts += 1
        work = part * speed[worker]
        alone = world.start + float(work.sum())
        losses = int(generator.poisson(alone * world.losses / 3600)) if len(part) else 0
        again = float(generator.choice(work, losses).sum()) / 2 if losses else 0.0
        ends[worker] = alone + again + losses * (world.back + world.start)
        lost, starts = lost + losses, starts + losses
    return _course(ends, durations, speed, lost, starts)


def _course(ends: Array, durations: Array, speed: Array, lost: int, starts: int) -> Course:
    makespan = float(ends.max())
    ideal = float(durations.sum() / (1 / speed).sum())
    return Course(makespan, ideal, makespan - float(np.median(ends)), lost, starts)


@dataclass(frozen=True)
class Driver:
    """What the process that holds the run folder has to bear.

    Attributes:
        bytes_a_task: memory of a shard that is still to be computed.
        bytes_a_shard: on disk.
        write: seconds to write one, flushed to disk.
        scan: seconds to read the record of one, as when a run is resumed.
        bytes_a_row: memory of a row while its cell is sealed.
    """

    bytes_a_task: float
    bytes_a_shard: float
    write: float
    scan: float
    bytes_a_row: float


def measured_driver(run: RunFolder, size: int) -> Driver:
    """Measure it on a finished run, for shards of `size` images."""
    key, cell = next(
        (key, cell) for key, cell in read_plan(run).cells.items() if run.cell(key).shards()
    )
    folder = run.cell(key)
    shards = folder.shards()
    images = sum(shard.last - shard.first + 1 for shard in shards)
    each = int(sum(shard.path.stat().st_size for shard in shards) * size / images)
    tracemalloc.start()
    tasks = [Task(key, cell, folder.path, i, i + size - 1, None, {}) for i in range(20_000)]
    left = {(task.first, task.last) for task in tasks}
    bytes_a_task = tracemalloc.get_traced_memory()[0] / len(left)
    tracemalloc.stop()
    with tempfile.TemporaryDirectory(dir=run.path) as place:
        begun = time.perf_counter()
        for i in range(20):
            write_atomic(Path(place) / str(i), bytes(each))
        write = (time.perf_counter() - begun) / 20
    begun = time.perf_counter()
    for _ in range(20):
        CellFolder(folder.path).shards()
    scan = (time.perf_counter() - begun) / 20 / len(shards)
    from bench.store.schema import names

    table = folder.table([*names(plain=True), "trace"])
    return Driver(bytes_a_task, each, write, scan, table.nbytes / table.num_rows)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", help="a finished run, whose shard times are drawn")
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--shard", type=int, default=64, help="images of a shard")
    parser.add_argument("--workers", type=int, default=World.workers)
    parser.add_argument("--uneven", type=float, default=World.uneven)
    parser.add_argument("--losses", type=float, default=World.losses, help="of a worker, an hour")
    parser.add_argument("--back", type=float, default=World.back)
    parser.add_argument("--start", type=float, default=World.start)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    run = RunFolder(find_run(asked.run))
    times = seconds_an_image(run.path)
    if not times:
        sys.exit(f"{run.path}/log.txt names no finished shard")
    world = World(asked.workers, asked.uneven, asked.losses, asked.back, asked.start)
    shards = -(-asked.images // asked.shard)
    durations = drawn(times, shards, asked.shard, np.random.default_rng(asked.seed))
    courses = {
        "handed out (ray)": dynamic(durations, world, np.random.default_rng(asked.seed + 1)),
        "handed out one by one": dynamic(
            durations, world, np.random.default_rng(asked.seed + 1), 1
        ),
        "20 shares a worker": dynamic(
            durations,
            world,
            np.random.default_rng(asked.seed + 1),
            max(durations.size // (20 * world.workers), 1),
        ),
        "one share a worker": static(durations, world, np.random.default_rng(asked.seed + 1)),
    }
    driver = measured_driver(run, asked.shard)
    if asked.json:
        told = {name: asdict(course) for name, course in courses.items()}
        print(json.dumps({"world": asdict(world), "courses": told, "driver": asdict(driver)}))
        return
    _print(asked.images, len(times), durations, world, courses, driver)


def _print(
    images: int,
    cells: int,
    durations: Array,
    world: World,
    courses: Mapping[str, Course],
    driver: Driver,
) -> None:
    count = durations.size
    print(
        f"{images:,} images x {cells} cells = {count:,} shards of {durations.mean():.1f} s "
        f"({durations.min():.1f} to {durations.max():.1f}); {durations.sum() / 3600:,.0f} hours of "
        "one worker"
    )
    print(", ".join(f"{name} {value:g}" for name, value in asdict(world).items()))
    print(f"{'':24} {'hours':>8} {'ideal':>8} {'half idle, min':>15} {'lost':>8} {'starts':>9}")
    for name, course in courses.items():
        print(
            f"{name:24} {course.makespan / 3600:8.2f} {course.ideal / 3600:8.2f} "
            f"{course.half_idle / 60:15.1f} {course.lost:8,} {course.starts:9,}"
        )
    rate = count / next(iter(courses.values())).makespan
    print(
        f"driver: {rate:.1f} shards/s, {rate * driver.bytes_a_shard / 2**20:.1f} MiB/s; writing "
        f"takes {driver.write * 1000:.1f} ms each, {100 * rate * driver.write:.0f} % of its time; "
        f"{count * driver.bytes_a_shard / 2**40:.2f} TiB in {count:,} files"
    )
    print(
        f"driver: {count * driver.bytes_a_task / 2**30:.2f} GiB for the shards that are left "
        f"({driver.bytes_a_task:.0f} bytes each); {count * driver.scan / 60:.0f} min to read the "
        f"records when resumed; {images * driver.bytes_a_row / 2**30:.1f} GiB to seal one cell"
    )


if __name__ == "__main__":
    main()
