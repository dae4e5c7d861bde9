"""Pictures and traces that cannot be read: their cell has no numbers, and the others go on."""

import hashlib
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mischief_site import TOY_PLAN, finished_run

from bench.plans.stored import read_plan
from bench.store.folder import RunFolder
from bench.store.schema import ROWS

PLAN = TOY_PLAN.replace('use = "toy"', 'use = "toy"\nlabel = "toy"')


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run."""
    with finished_run(tmp_path_factory.mktemp("damaged"), PLAN) as run:
        yield run


def resealed(run, attack, name, value):
    """One column of a cell's last shard replaced, and the digest in cell.json mended."""
    (key,) = (key for key, cell in read_plan(run).cells.items() if cell.attack.label == attack)
    folder = run.cell(key)
    path = folder.shards()[-1].path
    metadata, rows = pq.read_schema(path).metadata, pq.read_table(path).to_pylist()
    for row in rows:
        row[name] = value
    table = pa.Table.from_pylist(rows, schema=ROWS).replace_schema_metadata(metadata)
    pq.write_table(table, path, compression="zstd")
    document = json.loads((folder.path / "cell.json").read_text())
    document["shards"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder.path / "cell.json").write_text(json.dumps(document))
    return path


DAMAGE = {
    "no-image": ("image", None, "image is missing in part of its rows"),
    "no-saved-image": ("adversarial", None, "adversarial is missing in part of its rows"),
    "no-bytes": ("image", {"bytes": None, "path": None}, "image is missing in part of its rows"),
    "no-trace": ("trace", None, "trace is missing in part of its rows"),
    "no-point": ("trace", [None], "trace is missing in part of its rows"),
    "endless-picture": ("image", {"bytes": bytes(2**24), "path": None}, "claims to hold|holds"),
}
COMMANDS = {
    "report": (("report", "r", "--out", "pages"), "pages/index.html"),
    "publish": (("publish", "r", "--out", "site"), "site/01-r/index.html"),
    "export": (("export", "r", "--out", "hub", "--dataset", "a/b"), None),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_picture_or_trace_costs_its_cell_and_no_other(
    made, gatebench, tmp_path, damage, command
):
    run = RunFolder(shutil.copytree(made, tmp_path / "runs" / "r"))
    name, value, said = DAMAGE[damage]
    path = resealed(run, "wander", name, value)
    words, page = COMMANDS[command]
    code, _, err = gatebench(*words)
    assert code == 0, err
    (line,) = err.splitlines()
    assert line.startswith(f"toy / wander is left without numbers: {path.relative_to(tmp_path)}")
    assert any(part in line for part in said.split("|"))
    if page is None:
        (rows,) = (tmp_path / "hub" / "dataset" / "data" / "images").rglob("*.parquet")
        assert set(pq.read_table(rows)["attack"].to_pylist()) == {"still"}
    else:
        text = (tmp_path / page).read_text()
        assert path.name in text
        assert "still" in text
