"""How long a board takes: built, ranked, shown and rendered, on a synthetic run of any size.

    python -m benchmarks.report [--cells 1000] [--images 1000] [--steps build show report full]

The run is written as `gatebench run` would have left it: a plan, sealed cells, shards with
pictures. Numbers are drawn at random; pictures are a few small ones again and again. Every step
runs in a process of its own; printed are seconds of the wall clock and of the processor, and the
largest memory that the process held. The same is done on a quarter of the cells: column "growth" is
how many times the processor time of the quarter the whole takes, 4 where a step is linear. Ends
with 1 where the processor time of the default size is above column "at most".
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bench.contracts.cell import Cell, Component, Protocol
from bench.contracts.threat import parse_threat
from bench.files.canonical import canonical
from bench.plans.plan import Plan, RunOptions
from bench.plans.stored import StoredPlan
from bench.store.documents import SCHEMA, write_json
from bench.store.folder import PLAN, CellFolder, RunFolder
from bench.store.schema import ROWS, names
from bench.store.sealed import Sealed
from bench.store.target import (
    DatasetWords,
    FloatNoise,
    GradientCounts,
    TargetDescription,
    UnitColumns,
)

UNITS, SIDE, PICTURES, POINTS = 54, 32, 8, 12
UNIT_MACS, BASE_MACS = 1_000_000, 4_000_000
STEPS = ("build", "show", "report")
DEFAULT = 1000
AT_MOST = {"build": 20.0, "show": 20.0, "report": 60.0}
"""Seconds of the processor that a step may take on a run of the default size."""


def main() -> int:
    """Make a run unless one is named, time each step, and print a table; 1 where a bound does not
    hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=DEFAULT)
    parser.add_argument("--images", type=int, default=DEFAULT)
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--shard", type=int, default=256, help="images a shard")
    parser.add_argument("--run", type=Path, help="a run folder to use, or to write and keep")
    parser.add_argument("--steps", nargs="+", choices=(*STEPS, "full"), default=STEPS)
    parser.add_argument("--step", choices=(*STEPS, "full"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step:
        print(json.dumps(measured(chosen.step, chosen.run)))
        return 0
    with tempfile.TemporaryDirectory() as place:
        run = chosen.run or Path(place) / "whole"
        quarter = Path(place) / "quarter"
        sizes = (chosen.images, chosen.targets, chosen.shard)
        if not (run / "plan.json").is_file():
            write_run(run, chosen.cells, *sizes)
        write_run(quarter, max(1, chosen.cells // 4), *sizes)
        full_size = chosen.cells == chosen.images == DEFAULT and not chosen.run
        return 0 if _table(run, quarter, chosen.steps, full_size) else 1


def _table(run: Path, quarter: Path, steps: Sequence[str], bounded: bool) -> bool:
    """Time each step on both runs, print a line each; whether all bounds hold."""
    print("| step | wall, s | CPU, s | memory, MB | growth | at most, CPU s | made |")
    print("|---|---:|---:|---:|---:|---:|---|")
    held = True
    for step in steps:
        found, part = (_apart(step, each) for each in (run, quarter))
        bound = AT_MOST.get(step) if bounded else None
        held &= bound is None or found["cpu"] <= bound
        print(
            f"| {step} | {found['wall']:.1f} | {found['cpu']:.1f} | {found['memory']:.0f} "
            f"| {found['cpu'] / part['cpu']:.1f} | {'' if bound is None else f'{bound:.0f}'} "
            f"| {found['made']} |",
            flush=True,
        )
    return held


def _apart(step: str, run: Path) -> dict[str, Any]:
    """One step in a process of its own, with one thread for products of matrices: more of them only
    wait for each other, and their waiting counts as processor time."""
    command = [sys.executable, "-m", "benchmarks.report", "--run", str(run), "--step", step]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=alone)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(step: str, run: Path) -> dict[str, Any]:
    """One step in this process: its seconds, its memory in MB, and what came of it."""
    started = time.perf_counter()
    made = work(step, run)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall": time.perf_counter() - started,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / 1024,
        "made": made,
    }


def work(step: str, run: Path) -> str:
    """Do one step."""
    from bench.results.board import load_boards

    if step == "build":
        return f"{sum(len(board.cells) for board in load_boards(run))} cells"
    if step == "show":
        from reports.tables import print_table

        text = io.StringIO()
        for board in load_boards(run):
            print_table(board, text)
        return f"{len(text.getvalue().splitlines())} lines"
    from bench.cli.report import write_report

    out = run / "report"
    write_report([run], out, options={"full": True} if step == "full" else {})
    files = [path for path in out.rglob("*") if path.is_file()]
    return f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"


def write_run(run: Path, cells: int, images: int, targets: int, shard: int) -> None:
    """Write a synthetic run: every target under equally many attacks, among them a control."""
    folder = RunFolder(run)
    folder.create()
    attacks = max(1, cells // targets)
    threat = parse_threat({"norm": "psnr", "floor": "35"})
    protocol = Protocol("synthetic:test", images, 32, threat, budget=150, seed=0, audit=4)
    planned = [
        Cell(protocol, target_of(target), attack_of(attack))
        for target in range(targets)
        for attack in range(attacks)
    ]
    plan = StoredPlan.of(
        Plan(run.name, (tuple(planned),), RunOptions()),
        name=run.name,
        command=f"gatebench run {run.name}",
        dataset="synthetic:test",
        subset="0" * 64,
        fit_subset="",
    )
    write_json(run / PLAN, plan.document())
    pictures = [picture(number) for number in range(PICTURES)]
    for number, (key, cell) in enumerate(plan.cells.items()):
        write_cell(folder.cell(key, create=True), cell, pictures, shard, *divmod(number, attacks))


def target_of(number: int) -> Component:
    """A target as a plan holds it."""
    label = f"target-{number:03d}"
    params = {"depth": 38, "number": number}
    return Component("skipnet", "gatebench", "targets.skipnet:SkipNet", label, params, series=label)


def attack_of(number: int) -> Component:
    """An attack as a plan holds it; the first is a control."""
    name = "gradauto" if number else "identity"
    label = f"attack-{number:03d}" if number else name
    value = "attacks.gradauto:GradAuto" if number else "attacks.controls:Identity"
    params = {"lr": 0.01 * number}
    return Component(name, "gatebench", value, label, params, control=not number, series=label)


def write_cell(
    folder: CellFolder, cell: Cell, pictures: list[bytes], size: int, target: int, attack: int
) -> None:
    """Write target.json, the shards, and cell.json."""
    images = cell.protocol.images
    called = tuple(f"group{unit // 18}.block{unit % 18}" for unit in range(UNITS))
    ceiling = BASE_MACS + UNITS * UNIT_MACS
    described = TargetDescription(
        floor=BASE_MACS,
        ceiling=ceiling,
        reference=ceiling,
        bound=ceiling,
        draws=1,
        noise=FloatNoise(1e-5, 1e-5),
        classes=tuple(str(number) for number in range(10)),
        dataset=DatasetWords("synthetic:test", "numbers drawn at random", ()),
        control=False,
        units=UnitColumns(
            called,
            ("block",) * UNITS,
            called,
            ((),) * UNITS,
            (UNIT_MACS,) * UNITS,
            (0.5,) * UNITS,
        ),
        gradients=GradientCounts(8, 0, 0, 0, 0, False),
    )
    write_json(folder.path / "target.json", described.document())
    random = np.random.default_rng([target, attack])
    digests = {}
    for first, table in tables(images, size, target, attack, pictures, random):
        record = canonical({"key": folder.key, "schema": SCHEMA}).decode()
        path = folder.path / f"shard-{first:05d}-{first + table.num_rows - 1:05d}.parquet"
        pq.write_table(
            table.replace_schema_metadata({"gatebench": record}),
            path,
            compression="zstd",
            compression_level=3,
            row_group_size=1024,
            write_statistics=False,
        )
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    sealed = Sealed(
        key=folder.key,
        inputs=cell.inputs(),
        status="ok",
        reason="",
        detail="",
        flags=(),
        aggregates={"images": images, **dict.fromkeys(names(summed=True), images)},
        environment={"device": "cpu", "threads": 1},
        shards=digests,
    )
    write_json(folder.path / "cell.json", sealed.document())


def tables(
    images: int,
    size: int,
    target: int,
    attack: int,
    pictures: list[bytes],
    random: np.random.Generator,
) -> Iterator[tuple[int, pa.Table]]:
    """(place of the first image, rows) of each shard; clean columns depend on the target alone."""
    easy = np.random.default_rng([target, 10**6]).random((images, UNITS))
    clean = easy < 0.55
    won = random.random((images, UNITS)) < 0.35 * attack / (attack + 3)
    after = clean | won
    macs, attacked = (BASE_MACS + UNIT_MACS * chosen.sum(1) for chosen in (clean, after))
    squared = random.integers(30_000, 60_000, images) * (attack > 0)
    values = SIDE * SIDE * 3
    with np.errstate(divide="ignore"):
        psnr = np.where(squared > 0, 10 * np.log10(255**2 * values / np.maximum(squared, 1)), 120.0)
    label = np.arange(images) % 10
    marks = np.linspace(3, 150, POINTS).astype(np.int64)
    reached = macs[:, None] + (attacked - macs)[:, None] * (np.arange(1, POINTS + 1) / POINTS)
    columns: dict[str, Any] = {
        "id": [f"synthetic/test/{number:05d}" for number in range(images)],
        "label": label,
        "clean_prediction": label,
        "adversarial_prediction": np.where(random.random(images) < 0.1, 0, label),
        "clean_macs": macs,
        "adversarial_macs": attacked,
        "float_macs": attacked,
        "jpeg_macs": macs,
        "clean_decisions": [row.tobytes() for row in np.packbits(clean, axis=1)],
        "adversarial_decisions": [row.tobytes() for row in np.packbits(after, axis=1)],
        "linf": np.full(images, 6 * (attack > 0)),
        "squared": squared,
        "l2": np.sqrt(squared) / 255,
        "psnr": psnr,
        "ssim": np.full(images, 0.97),
        "evaluations": np.full(images, 150),
        "forwards": np.full(images, 50),
        "backwards": np.full(images, 50),
        "held": np.full(images, 1000),
        "flipped": random.integers(0, 30, images),
        "near_threshold": np.zeros(images, dtype=np.int64),
        "overshoot": np.zeros(images, dtype=bool),
    }
    trace = pa.ListArray.from_arrays(
        np.arange(images + 1, dtype=np.int32) * POINTS,
        pa.StructArray.from_arrays(
            [
                pa.array(np.tile(marks, images)),
                pa.array(reached.astype(np.int64).ravel()),
                pa.array(np.repeat(squared.astype(np.float64), POINTS)),
            ],
            ["evaluations", "macs", "squared"],
        ),
    )
    shown = [{"bytes": pictures[number % PICTURES], "path": None} for number in range(images)]
    arrays = [pa.array(columns[field.name], field.type) for field in ROWS if field.name in columns]
    arrays += [trace, pa.array(shown, ROWS.field("image").type)]
    shown = [{"bytes": pictures[(number + 1) % PICTURES], "path": None} for number in range(images)]
    arrays.append(pa.array(shown, ROWS.field("adversarial").type))
    table = pa.Table.from_arrays(arrays, schema=ROWS)
    for first in range(0, images, size):
        yield first, table.slice(first, size)


def picture(seed: int) -> bytes:
    """A small PNG that compresses about as a photograph does."""
    random = np.random.default_rng(seed)
    pixels = np.clip(random.normal(128, 12, (SIDE, SIDE, 3)).cumsum(0) % 255, 0, 255)
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, format="PNG")
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
