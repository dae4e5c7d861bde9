"""Damaged and foreign run folders: one message and a documented exit code, whatever lies there.

`GATEBENCH_FUZZ=5000` makes that many; by default a few, the same.
"""

import contextlib
import copy
import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import COUNTS, WANTED, command, fuzzed, mutated, values
from hypothesis import given, settings
from hypothesis import strategies as st
from mischief_site import SITE
from PIL import Image

from bench.errors import EXIT_CODES
from bench.files.regular import read_regular
from bench.files.remove import remove
from bench.plugins import registry
from bench.store.schema import PICTURE, POINT, ROWS

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


class Held:
    """A run folder whose content is held in memory, so that damage is undone file by file.

    Args:
        run: the folder of a good run.
        place: where the copy lies that is damaged.
    """

    def __init__(self, run, place):
        self.place = place
        shutil.copytree(run, place)
        self._files = {
            str(path.relative_to(place)): path.read_bytes()
            for path in sorted(place.rglob("*"))
            if path.is_file()
        }
        self._touched = set()

    def choose(self, draw, end):
        """One of the files whose names end so; it counts as touched."""
        name = draw(st.sampled_from([name for name in self._files if name.endswith(end)]))
        self._touched.add(name)
        return self.place / name

    def touch(self, path):
        self._touched.add(str(path.relative_to(self.place)))

    def mend(self):
        """Undo the damage, and only that: commands that read a run leave it as it is."""
        for name in self._touched:
            path = self.place / name
            remove(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._files[name])
        self._touched.clear()

    def restore(self):
        """Undo everything, also what commands wrote that go on in the run's folder."""
        remove(self.place)
        self._touched = set(self._files)
        self.mend()

    def whole_cells(self):
        """How many cells are as their run left them; none where the plan is not."""
        if "plan.json" in self._touched:
            return 0
        cells = {str(Path(name).parent) for name in self._files if name.startswith("cells/")}
        return len(cells - {str(Path(name).parent) for name in self._touched})

    def check_untouched(self):
        """Fail where a command wrote into the run."""
        there = {str(p.relative_to(self.place)) for p in self.place.rglob("*") if p.is_file()}
        assert there <= set(self._files) | {"board.csv", "board.parquet"}, there


def flipped(draw, data):
    """Bytes with a few of them changed, cut or put in."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        place, size = draw(st.integers(0, len(found))), draw(st.integers(0, 60))
        found[place : place + size] = draw(st.binary(max_size=40))
    return bytes(found)


def png(width, height, mode):
    """A picture of one color as a file."""
    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, format="PNG")
    return out.getvalue()


NUMBERS = st.sampled_from([-1, 0, 1, 2**53, 2**62, -(2**62)])
REALS = st.floats()
POINTS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {
            "evaluations": st.none() | NUMBERS,
            "macs": st.none() | NUMBERS,
            "squared": st.none() | REALS,
        }
    ),
)
PICTURES = st.one_of(
    st.none(),
    st.sampled_from(
        [
            {"bytes": data, "path": path}
            for data in (
                None,
                b"",
                b"\x89PNG\r\n\x1a\n",
                bytes(2**24),
                png(8, 8, "RGB"),
                png(8, 8, "L"),
                png(8, 8, "RGBA"),
                png(9, 8, "RGB"),
                png(3000, 3000, "RGB"),
            )
            for path in (None, "../../x.png")
        ]
    ),
)
VALUES = {
    pa.int64(): NUMBERS,
    pa.float64(): REALS,
    pa.string(): st.text(st.characters(exclude_categories=("Cs",)), max_size=9),
    pa.binary(): st.binary(max_size=9),
    pa.bool_(): st.booleans(),
    PICTURE: PICTURES,
    pa.list_(POINT): st.none()
    | st.lists(POINTS, max_size=3)
    | st.builds(lambda point: [point] * 5000, POINTS),
}
"""What a cell of a table is replaced by, by its type."""


def rewritten(draw, held):
    """Another table in place of a shard, and its digest mended in cell.json beside it."""
    path = held.choose(draw, ".parquet")
    if not path.name.startswith("shard-") or not path.is_file():
        return
    held.touch(path.with_name("cell.json"))
    table = pq.read_table(path)
    name = draw(st.sampled_from(table.column_names))
    place = table.column_names.index(name)
    deed = draw(st.sampled_from(["drop", "null", "retype", "repeat", "shorten", *["value"] * 5]))
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
        value = draw(VALUES[ROWS.field(name).type])
        chosen = draw(st.sampled_from([rows, rows[:1], rows[-1:]]))
        for row in chosen:
            row[name] = value
        table = pa.Table.from_pylist(rows, schema=table.schema)
    pq.write_table(table.replace_schema_metadata(pq.read_schema(path).metadata), path)
    sealed = path.with_name("cell.json")
    with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
        document = json.loads(sealed.read_bytes())
        document["shards"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        sealed.write_text(json.dumps(document))


def odd(draw, path):
    """Something that is no file of ours in the place of one."""
    remove(path)
    kind = draw(st.sampled_from(["gone", "folder", "pipe", "endless", "circle", "hole", "empty"]))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "circle":
        path.symlink_to(path.name)
    elif kind == "hole":
        with open(path, "wb") as file:
            file.truncate(2**40)
    elif kind == "empty":
        path.write_bytes(b"")


def damage(draw, held):
    """One change of what lies in a run's folder."""
    deed = draw(st.sampled_from(["document"] * 6 + ["bytes", "bytes", "table", "table", "odd"]))
    if deed == "document":
        path = held.choose(draw, ".json")
        with contextlib.suppress(ValueError, OSError):
            content = mutated(draw, copy.deepcopy(json.loads(read_regular(path))))
            if draw(st.integers(0, 9)) == 0:
                content = draw(values)
            path.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")
    elif deed == "table":
        rewritten(draw, held)
    else:
        path = held.choose(draw, draw(st.sampled_from([".json", ".parquet"])))
        if deed == "bytes":
            with contextlib.suppress(OSError):
                path.write_bytes(flipped(draw, read_regular(path)))
        else:
            odd(draw, path)


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
        "submit": ["submit", "m", "--out", "s.zip", "--who", "a", "--what", "b"],
        "merge": ["merge", "r", "m", "--out", "u", "--no-report"],
        "publish": ["publish", "m", "--out", "site"],
        "export": ["export", "m", "--out", "hub", "--dataset", "a/b"],
        "transfer": ["transfer", "m"],
        "latency": ["latency", "m", "--images", "1", "--repeats", "1"],
        "headroom": ["headroom", "m", "--images", "2", "--times", "2"],
        "beat": ["beat", "m", "toy random:0 / wander", *IN_PROCESS],
        "run": ["run", "plan.toml", "--name", "m", *IN_PROCESS],
    }
    asked["submit"] += ["--license", "MIT"]
    codes = dict.fromkeys(GOING_ON, (0, 5))
    codes |= dict.fromkeys(WRITING, (0, 5, 6, 9))  # 6: a folder lies where a file is written
    codes |= {"verify": (0, 5, 10), "submit": (0, 2, 5, 9), "merge": (0, 5, 9)}
    codes |= {"beat": (0, 2, 5), "check": (0, 5, 8, 9)}
    return [(name, words, codes.get(name, (0, 5, 9))) for name, words in asked.items()]


IN_PROCESS = ("--in-process", "--no-report")
GOING_ON = ("show", "report", "publish", "export")
"""Commands that show what there is: one whole cell is enough for them."""
WRITING = ("transfer", "latency", "headroom", "run")
"""Commands that write into the run's folder."""


def remove_all(runs, like="m*"):
    """Remove the copy of the good run, and what was made of it."""
    for path in runs.glob(like):
        remove(path)


def test_whatever_lies_in_a_run_folder_is_told_in_a_sentence(good):
    held = Held(good / "runs" / "r", good / "runs" / "m")
    show, *others = commands(good)
    weights = {"verify": 1, "report": 4, "publish": 2, "export": 2, "headroom": 1, "beat": 1}
    chosen = st.sampled_from([one for one in others for _ in range(weights.get(one[0], 3))])

    @settings(fuzzed, max_examples=WANTED or 6)
    @given(st.data())
    def check(data):
        name = ""
        try:
            for _ in range(data.draw(st.integers(1, 2))):
                with contextlib.suppress(OSError, pa.ArrowException):
                    damage(data.draw, held)
            for name, words, codes in [show, data.draw(chosen)]:
                goes_on = name in GOING_ON and held.whole_cells()
                assert command(*words) in ((0,) if goes_on else codes), name
        finally:
            if name in WRITING:
                held.restore()
            else:
                held.mend()
            remove_all(good / "runs", "m-beat-*")

    check()
    held.check_untouched()
    for name, words, _ in commands(good):
        assert command(*words) == 0, f"{name} after everything was mended"
        held.restore()
    remove_all(good / "runs")


@pytest.mark.slow  # every command; the quick fuzzer ends with all of them too
def test_the_folder_is_good_before_it_is_damaged(good):
    shutil.copytree(good / "runs" / "r", good / "runs" / "m", dirs_exist_ok=True)
    for name, words, _ in commands(good):
        assert command(*words) == 0, name
    assert set(EXIT_CODES) >= {0, 5, 8, 9, 10}
    remove_all(good / "runs")
