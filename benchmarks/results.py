"""Put the boards of a run among those that are published in docs/results.

python benchmarks/results.py cifar10-128 --name cifar10-128

A board of the same name is replaced. The pages and pictures of the run stay where they are.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
KEY = 12
"""Digits of a cell's key that tell it apart among the published ones."""
COLUMNS = (
    "key",
    "id",
    "label",
    "adversarial_prediction",
    "clean_prediction",
    "clean_macs",
    "adversarial_macs",
    "float_macs",
    "jpeg_macs",
    "squared",
    "linf",
    "evaluations",
)
"""What images.parquet keeps of a row."""


def main() -> int:
    """Add or replace the boards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run's folder, or its name under ./runs")
    parser.add_argument("--name", required=True, help="of the files; a threat is added to it")
    parser.add_argument("--no-members", action="store_true", help="leave out ensembles' members")
    parser.add_argument("--out", type=Path, default=RESULTS, help="docs/results unless given")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench", "report", chosen.run, "--out", folder]
        command += ["--use", "publication"] + ["--no-members"] * chosen.no_members
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        tables = sorted(Path(folder).rglob("board.csv"))
        names = board_names(chosen.name, [board_of(table) for table in tables])
        for table, name in zip(tables, names, strict=True):
            (chosen.out / "boards" / f"{name}.csv").write_bytes(table.read_bytes())
        rows = keep_rows(chosen.out, pq.read_table(Path(folder) / "rows.parquet"))
    write_digests(chosen.out)
    print(f"{', '.join(names)}: {rows:,} rows of images in all")
    return 0


def board_of(table: Path) -> str:
    """The name of the board that a CSV file holds."""
    with table.open(encoding="utf-8", newline="") as lines:
        return next(csv.DictReader(lines))["board"]


def board_names(name: str, boards: Iterable[str]) -> list[str]:
    """Names of files for the boards of a run: with their threats where there are several, such as
    cifar10-128-psnr30 for "cifar10-128: psnr>=30, budget 150, seed 0"."""
    threats = [board.rpartition(": ")[2].partition(",")[0] for board in boards]
    if len(threats) == 1:
        return [name]
    return [f"{name}-{re.sub('[^a-z0-9.]', '', threat)}" for threat in threats]


def keys_of(boards: Path) -> dict[str, None]:
    """The first digits of the keys of all finished cells on the boards of a folder, each once, in
    the boards' order: neighbors are alike, so their rows take less space."""
    found: dict[str, None] = {}
    for table in sorted(boards.glob("*.csv")):
        with table.open(encoding="utf-8", newline="") as lines:
            done = [row["key"][:KEY] for row in csv.DictReader(lines) if row["status"] == "ok"]
        found |= dict.fromkeys(done)
    return found


def keep_rows(out: Path, new: pa.Table) -> int:
    """Write images.parquet: every finished cell of the boards once; returns how many rows.

    Two boards may share a cell, and what is published may be that of a run before: the rows of the
    new run are taken where it has some.
    """
    path = out / "images.parquet"
    index = new.column_names.index("key")
    new = new.set_column(index, "key", pc.utf8_slice_codeunits(new["key"], 0, KEY))
    tables = [new.select(COLUMNS)]
    if path.is_file():
        tables.append(pq.read_table(path, columns=list(COLUMNS)))
    wanted = keys_of(out / "boards")
    cells: dict[str, pa.Table] = {}
    for table in tables:
        for key in table["key"].unique().to_pylist():
            if key in wanted and key not in cells:
                cells[key] = once(table.filter(pc.equal(table["key"], key)))
    if missing := [key for key in wanted if key not in cells]:
        raise SystemExit(f"no rows of the cells {', '.join(missing[:5])}; publish their run again")
    result = pa.concat_tables(cells[key] for key in wanted)
    pq.write_table(result, path, compression="zstd", compression_level=19)
    return int(result.num_rows)


def once(cell: pa.Table) -> pa.Table:
    """The rows of a cell, each image once."""
    places: dict[str, int] = {}
    for place, image in enumerate(cell["id"].to_pylist()):
        places.setdefault(image, place)
    return cell.take(list(places.values()))


def write_digests(out: Path) -> None:
    """SHA256SUMS of everything that is published, by name."""
    files = sorted([*(out / "boards").glob("*.csv"), out / "images.parquet"])
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(out).as_posix()}\n"
        for file in files
    ]
    (out / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
