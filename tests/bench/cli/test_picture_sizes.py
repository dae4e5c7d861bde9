"""Pictures of another size than a cell's images: every command that reads them refuses them before
a pixel is decoded and before the network sees them, and names the shard and the image."""

import io
import json
import shutil
from hashlib import sha256
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from mischief_site import finished_run
from PIL import Image, ImageFile

from bench.errors import RunFolderError
from bench.plans.stored import read_plan
from bench.python.run import open_run
from bench.regression.compare import saved_images
from bench.store.documents import write_json
from bench.store.folder import RunFolder

PLAN = """schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 6
batch = 3
threat = { norm = "linf", eps = "64/255" }
budget = 9
[run]
device = "cpu"
shard = 3
[[target]]
use = "toy"
weights = "random:0"
label = "toy"
[[attack]]
use = "wander"
[[attack]]
use = "still"
"""
WORDS = ("--who", "me", "--what", "images", "--license", "MIT")
SIDE = 9
"""One pixel more than the toy's images have."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run."""
    with finished_run(tmp_path_factory.mktemp("sizes"), PLAN) as run:
        yield run


@pytest.fixture
def run(made, gatebench, tmp_path):
    """A copy, runs/r, whose last image under `wander` has pictures of another size, sealed again;
    loading a picture of that size fails the test."""
    run = RunFolder(shutil.copytree(made, tmp_path / "runs" / "r"))
    out = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(out, format="PNG")
    spoil(run.cell(key_of(run, "wander")), out.getvalue())
    return run


@pytest.fixture(autouse=True)
def _none_is_decoded(monkeypatch):
    load = ImageFile.ImageFile.load

    def watched(picture):
        assert picture.size != (SIDE, SIDE), "its pixels were decoded"
        return load(picture)

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)


def key_of(run, attack):
    (key,) = (key for key, one in read_plan(run).cells.items() if one.attack.label == attack)
    return key


def spoil(folder, data):
    """Other pictures in the last row, and the digest of its shard mended."""
    shard = folder.shards()[-1]
    rows = pq.read_table(shard.path).to_pylist()
    for name in ("image", "adversarial"):
        rows[-1][name] = {"bytes": data, "path": None}
    record = {name: value for name, value in shard.record.items() if name not in ("key", "schema")}
    folder.write_shard(shard.first, shard.last, rows, record)
    sealed = json.loads((folder.path / "cell.json").read_text())
    sealed["shards"][shard.path.name] = sha256(shard.path.read_bytes()).hexdigest()
    write_json(folder.path / "cell.json", sealed)


def last_image(run):
    return run.cell(key_of(run, "wander")).table(["id"])["id"][-1].as_py()


def names_it(run, text):
    """Whether a message names the shard, the image, and both sizes."""
    return all(
        part in text
        for part in (
            f"{key_of(run, 'wander')}/shard-00003-00005.parquet",
            f"image {last_image(run)}",
            f"{SIDE}x{SIDE} pixels, expected 8x8",
        )
    )


@pytest.mark.parametrize(
    ("command", "file", "ends"),
    [
        pytest.param(("latency", "r", "--repeats", "1"), "latency.json", 0, id="latency"),
        pytest.param(("transfer", "r", "--attack", "wander"), "transfer.parquet", 5, id="transfer"),
    ],
)
def test_what_executes_saved_images_leaves_them_out(run, gatebench, command, file, ends):
    code, _, err = gatebench(*command)
    assert code == ends, "of the other cells something is left, or nothing"
    (line,) = (line for line in err.splitlines() if "is left out" in line)
    assert names_it(run, line), line
    assert "gatebench verify" in line, "it says what to do"
    assert (run.path / file).exists() == (ends == 0)


def test_verify_names_them_and_executes_the_other_cells_alone(run, gatebench):
    code, _, _ = gatebench("verify", "r", "--all", "--json", "found.json")
    found = json.loads((run.path.parents[1] / "found.json").read_text())
    assert code == 10
    (said,) = (text for text in found["problems"] if "expected 8x8" in text)
    assert names_it(run, said)
    assert "nothing of this cell is executed" in said
    assert found["executed"] == 2 * 6, "clean and saved images of the other cell"
    assert found["counted"]


def test_an_attack_that_begins_at_saved_images_does_not_begin_at_them(run, gatebench, tmp_path):
    attack = f'[[attack]]\nuse = "onward"\nparams = {{ start = "{key_of(run, "wander")}" }}\n'
    (tmp_path / "onward.toml").write_text(PLAN.partition("[[attack]]")[0] + attack)
    code, _, err = gatebench("run", "onward.toml", "--name", "o", "--in-process", "--no-report")
    onward = RunFolder(tmp_path / "runs" / "o")
    (cell,) = (onward.cell(key).sealed() for key in read_plan(onward).cells)
    assert (code, cell.status) == (4, "failed"), err
    assert names_it(run, cell.reason), cell.reason


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("report", "r", "--out", "pages"), id="report"),
        pytest.param(("publish", "r", "--out", "pages"), id="publish"),
        pytest.param(("export", "r", "--out", "pages", "--dataset", "a/b"), id="export"),
    ],
)
def test_pages_leave_their_cell_out_and_name_it(run, gatebench, tmp_path, command):
    code, _, err = gatebench(*command)
    assert code == 0, err
    (line,) = err.splitlines()
    assert line.startswith("toy / wander is left without numbers")
    assert names_it(run, line), line
    assert list((tmp_path / "pages").rglob("*"))


def test_what_copies_saved_images_refuses_them(run, gatebench, tmp_path):
    code, _, err = gatebench("submit", "r", "--out", "mine.zip", *WORDS)
    assert code == 5, err
    assert names_it(run, err), err
    assert {path.name for path in tmp_path.iterdir()} == {"plan.toml", "runs"}


def test_a_comparison_shows_none_of_them(run):
    change = SimpleNamespace(target="toy", defense="", attack="wander")
    with pytest.raises(RunFolderError) as caught:
        saved_images(run.path, 0, change, [last_image(run)])
    assert names_it(run, caught.value.message)


def test_a_result_in_python_shows_none_of_them(run, gatebench):
    result = open_run(run.path)
    assert {cell.attack for cell in result.cells} == {"still"}
    assert names_it(run, " ".join(result.problems))
