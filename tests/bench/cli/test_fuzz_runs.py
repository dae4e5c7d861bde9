"""Damaged and foreign run folders: one message and a documented exit code, whatever lies there.

`GATEBENCH_FUZZ=5000` makes that many; by default a few, the same.
"""

import contextlib
import copy
import hashlib
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import COUNTS, WANTED, command, fuzzed, mutated, values
from hypothesis import given, settings
from hypothesis import strategies as st
from mischief_site import SITE

from bench.errors import EXIT_CODES
from bench.plugins import registry
from bench.store.schema import ROWS

PLAN = """schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 6
batch = 3
threat = { norm = "linf", eps = "8/255" }
budget = 9
audit = 1
[run]
device = "cpu"
shard = 3
[[target]]
use = "toy"
weights = "random:0"
[[defense]]
use = "bit-depth"
[[attack]]
use = "wander"
[[attack]]
use = "still"
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with a finished run, its times, its transfers and its baseline."""
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SITE))
        patch.chdir(folder)
        registry.providers.cache_clear()
        (folder / "plan.toml").write_text(PLAN)
        assert command("run", "plan.toml", "--name", "r", "--in-process", "--no-report") == 0
        assert command("latency", "r", "--images", "1", "--repeats", "1") == 0
        assert command("transfer", "r") == 0
        assert command("baseline", "r", "--out", "base.json") == 0
        yield folder
    registry.providers.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def _counts():
    yield
    if WANTED:
        print(f"\nfuzzed runs: {dict(sorted(COUNTS.items()))}")


def documents(run):
    return sorted(path for path in run.rglob("*.json") if path.is_file())


def shards(run):
    return sorted(run.rglob("shard-*.parquet"))


def flipped(draw, data):
    """Bytes with a few of them changed, cut or put in."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        place, size = draw(st.integers(0, len(found))), draw(st.integers(0, 60))
        found[place : place + size] = draw(st.binary(max_size=40))
    return bytes(found)


def rewritten(draw, path):
    """Another table in place of a shard, and its digest mended in cell.json beside it."""
    table = pq.read_table(path)
    name = draw(st.sampled_from(table.column_names))
    place = table.column_names.index(name)
    deed = draw(st.sampled_from(["drop", "null", "retype", "repeat", "shorten", "value"]))
    if deed == "drop":
        table = table.drop_columns([name])
    elif deed == "null":
        nulls = pa.nulls(table.num_rows, ROWS.field(name).type)
        table = table.set_column(place, ROWS.field(name), nulls)
    elif deed == "retype":
        table = table.set_column(place, name, pa.array(["x"] * table.num_rows))
    elif deed == "repeat":
        table = pa.concat_tables([table.slice(0, 1)] * table.num_rows)
    elif deed == "shorten":
        table = table.slice(0, draw(st.integers(0, table.num_rows)))
    else:
        rows = table.to_pylist()
        odd = {
            pa.int64(): st.sampled_from([-1, 0, 2**62, -(2**62)]),
            pa.float64(): st.floats(),
            pa.string(): st.text(st.characters(exclude_categories=("Cs",)), max_size=9),
            pa.binary(): st.binary(max_size=9),
            pa.bool_(): st.booleans(),
        }
        kind = odd.get(ROWS.field(name).type)
        if kind is not None:
            rows[draw(st.integers(0, len(rows) - 1))][name] = draw(kind)
        table = pa.Table.from_pylist(rows, schema=table.schema)
    pq.write_table(table.replace_schema_metadata(pq.read_schema(path).metadata), path)
    sealed = path.with_name("cell.json")
    with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
        document = json.loads(sealed.read_bytes())
        document["shards"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        sealed.write_text(json.dumps(document))


def damage(draw, run):
    """One change of what lies in a run's folder."""
    deed = draw(
        st.sampled_from(["document"] * 6 + ["bytes", "bytes", "table", "table", "gone", "folder"])
    )
    if deed == "document":
        path = draw(st.sampled_from(documents(run)))
        with contextlib.suppress(ValueError):
            content = mutated(draw, copy.deepcopy(json.loads(path.read_bytes())))
            if draw(st.integers(0, 9)) == 0:
                content = draw(values)
            path.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")
        return
    if deed == "table":
        rewritten(draw, draw(st.sampled_from(shards(run))))
        return
    path = draw(st.sampled_from([*documents(run), *shards(run), run / "transfer.parquet"]))
    if deed == "bytes":
        path.write_bytes(flipped(draw, path.read_bytes()))
    else:
        path.unlink()
        if deed == "folder":
            path.mkdir()


def commands(folder):
    """What is asked of a run's folder, each with the exit codes that it may end with."""
    base = str(folder / "base.json")
    asked = {
        "show": ["show", "m"],
        "report": ["report", "m", "--out", "pages"],
        "baseline": ["baseline", "m", "--out", "mutated.json"],
        "check": ["check", "plan.toml", "--run", "m", "--baseline", base],
        "compare": ["compare", "r", "m"],
        "verify": ["verify", "m", "--images", "1", "--seed", "1"],
    }
    codes = {"show": (0, 5), "report": (0, 5), "verify": (0, 5, 10)}
    return [
        (name, words, codes.get(name, (0, 5, 8, 9) if name == "check" else (0, 5, 9)))
        for name, words in asked.items()
    ]


def test_whatever_lies_in_a_run_folder_is_told_in_a_sentence(good):
    run = good / "runs" / "m"

    @settings(fuzzed, max_examples=WANTED or 40)
    @given(st.data())
    def check(data):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(good / "runs" / "r", run)
        for _ in range(data.draw(st.integers(1, 2))):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, pa.ArrowException):
                damage(data.draw, run)
        for name, words, codes in [
            *commands(good)[:1],
            data.draw(st.sampled_from(commands(good)[1:])),
        ]:
            assert command(*words) in codes, name

    check()


def test_the_folder_is_good_before_it_is_damaged(good):
    shutil.copytree(good / "runs" / "r", good / "runs" / "m", dirs_exist_ok=True)
    for name, words, _ in commands(good):
        assert command(*words) == 0, name
    assert set(EXIT_CODES) >= {0, 5, 8, 9, 10}
    shutil.rmtree(good / "runs" / "m")
