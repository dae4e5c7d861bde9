"""Pictures and traces that cannot be read: their cell has no numbers, and the others go on."""

import hashlib
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mischief_site import TOY_PLAN, finished_run

from bench.plans.stored import read_plan
from bench.results.board import load_boards
from bench.store.folder import RunFolder
from bench.store.schema import ROWS

PLAN = TOY_PLAN.replace('use = "toy"', 'use = "toy"\nlabel = "toy"').replace("still", "square")


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


LIE = "adversarial_macs", 10**6, "outside the floor and bound of its target"
BESIDE = {
    "transfer": ("transfer", "r", "--no-report"),
    "latency": ("latency", "r", "--images", "2", "--repeats", "1"),
    "headroom": ("headroom", "r", "--images", "2", "--times", "2"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_picture_or_trace_costs_its_cell_and_no_other(made, tmp_path, damage):
    run = RunFolder(shutil.copytree(made, tmp_path / "r"))
    name, value, said = DAMAGE[damage]
    path = resealed(run, "wander", name, value)
    (board,) = load_boards(run.path, whole=True)
    square, wander = sorted(board.cells, key=lambda cell: cell.attack)
    assert (square.status, wander.status) == ("ok", "invalid")
    assert wander.reason.startswith(str(path))
    assert any(part in wander.reason for part in said.split("|"))


@pytest.mark.parametrize("command", COMMANDS)
def test_pages_and_files_are_made_of_the_other_cells(made, gatebench, tmp_path, command):
    run = RunFolder(shutil.copytree(made, tmp_path / "runs" / "r"))
    path = resealed(run, "wander", "trace", None)
    words, page = COMMANDS[command]
    code, _, err = gatebench(*words)
    assert code == 0, err
    (line,) = err.splitlines()
    assert line.startswith(f"toy / wander is left without numbers: {path.relative_to(tmp_path)}")
    if page is None:
        (rows,) = (tmp_path / "hub" / "dataset" / "data" / "images").rglob("*.parquet")
        assert set(pq.read_table(rows)["attack"].to_pylist()) == {"square"}
    else:
        text = (tmp_path / page).read_text()
        assert path.name in text
        assert "square" in text


@pytest.mark.parametrize("command", BESIDE)
@pytest.mark.parametrize("wrong", [LIE, DAMAGE["no-saved-image"]], ids=["lie", "damage"])
def test_what_is_measured_beside_a_run_leaves_such_a_cell_out(
    made, gatebench, tmp_path, wrong, command
):
    run = RunFolder(shutil.copytree(made, tmp_path / "runs" / "r"))
    name, value, said = wrong
    resealed(run, "wander", name, value)
    code, _, err = gatebench(*BESIDE[command])
    assert code == 0, err
    if command == "headroom" and wrong is not LIE:  # it reads no picture
        assert "left out" not in err
        return
    (line,) = (line for line in err.splitlines() if "left out" in line)
    assert line.startswith("toy / wander is left out: ")
    assert said in line
    if command == "transfer":
        assert set(pq.read_table(run.path / "transfer.parquet")["attack"].to_pylist()) == {"square"}
    if command == "headroom":
        document = json.loads((run.path / "headroom.json").read_text())
        assert [entry["attack"] for entry in document["entries"]] == ["square"]


@pytest.mark.parametrize("wrong", [LIE, DAMAGE["no-saved-image"]], ids=["lie", "damage"])
def test_such_a_cell_is_not_handed_in(made, gatebench, tmp_path, wrong):
    run = RunFolder(shutil.copytree(made, tmp_path / "runs" / "r"))
    name, value, said = wrong
    resealed(run, "wander", name, value)
    words = ["--who", "A. Name", "--what", "images", "--license", "CC-BY-4.0", "--out", "a.zip"]
    code, _, err = gatebench("submit", "r", *words)
    assert code == 5
    assert "'toy / wander' cannot be handed in: " in err
    assert said in err
    assert not (tmp_path / "a.zip").exists()
    assert gatebench("submit", "r", "--only", "square", *words)[0] == 0
    assert (tmp_path / "a.zip").exists()


@pytest.mark.parametrize("left", [1, 2], ids=["one-shard", "all-shards"])
def test_a_run_that_goes_on_computes_a_damaged_cell_again(made, gatebench, tmp_path, left):
    """More is to do than was told at the start, which the progress takes as it comes."""
    run = RunFolder(shutil.copytree(made, tmp_path / "runs" / "r"))
    path = resealed(run, "wander", *LIE[:2])
    (path.parent / "cell.json").unlink()
    for shard in sorted(path.parent.glob("shard-*.parquet"))[: 2 - left]:
        shard.unlink()
    (tmp_path / "plan.toml").write_text(PLAN)
    code, out, err = gatebench("run", "plan.toml", "--name", "r", "--in-process", "--no-report")
    assert code == 0, err
    assert "[6/6 images]" in out if left == 2 else "[9/9 images]" in out
    assert "wander was left damaged and is computed again" in (run.path / "log.txt").read_text()
    (board,) = load_boards(run.path, whole=True)
    assert {cell.status for cell in board.cells} == {"ok"}


@pytest.mark.parametrize("wrong", [LIE, DAMAGE["no-saved-image"]], ids=["lie", "damage"])
def test_nothing_begins_at_images_of_such_a_cell(made, gatebench, tmp_path, wrong):
    run = RunFolder(shutil.copytree(made, tmp_path / "runs" / "r"))
    name, value, said = wrong
    resealed(run, "wander", name, value)
    code, _, err = gatebench("beat", "r", "toy / wander", "--in-process", "--no-report")
    assert code == 5
    assert "'toy / wander' is nothing to begin at: " in err
    assert said in err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["r"]
