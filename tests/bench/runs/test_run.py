"""A run whose workers misbehave: what is reported decides nothing, what lies there does."""

import contextlib
import json
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.contracts.executor import Event
from bench.errors import InUse, RunFolderError
from bench.executors.worker import perform
from bench.plans.resolve import load_plan
from bench.plans.stored import read_plan
from bench.plugins import registry
from bench.runs.layout import lay_out
from bench.runs.run import Run
from bench.runs.seal import seal
from bench.store.folder import CellFolder, RunFolder
from bench.store.provenance import deterministic, environment, resolve_devices

pytestmark = pytest.mark.usefixtures("plugins")

PLAN = """
schema = 1
[protocol]
dataset = "toy-pixels:test"
images = {images}
batch = 4
threat = {{ norm = "psnr", floor = 30 }}
budget = {budget}
audit = 1
[run]
device = "cpu"
shard = 4
[[target]]
use = "toy"
weights = "random:0"
[[attack]]
use = "wander"
[[attack]]
use = "still"
"""


class Honest:
    """Computes one task after the other in this process; subclasses misbehave."""

    made: ClassVar[list] = []

    def __init__(self, **options):
        self.options = options
        type(self).made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def open(self):
        deterministic(1)
        return environment(resolve_devices("cpu")[0])

    def run(self, tasks, tell):
        for task in tasks:
            tell(Event("started", task))
            self.one(task, tell)

    def one(self, task, tell):
        tell(perform(task, "cpu", tell))


@pytest.fixture
def run_with(tmp_path, monkeypatch):
    """Runs the plan with an executor of this kind; returns the run, its outcome and all events."""

    def make(kind, *, budget=9, name="r", images=8):
        kind.made = []
        load = registry.load
        monkeypatch.setattr(
            registry, "load", lambda what, name: kind if what == "executor" else load(what, name)
        )
        (tmp_path / "plan.toml").write_text(PLAN.format(budget=budget, images=images))
        laid = lay_out(load_plan(tmp_path / "plan.toml"), tmp_path, name, "gatebench run", None)
        run, events = Run(laid), []
        run(lambda tasks, there: None, events.append)
        return run, run.outcome, events

    return make


def keys(run):
    """Keys of the cells by the label of their attack."""
    return {cell.attack.label: key for key, cell in run.laid.cells.items()}


def rows(run, attack):
    return run.laid.folder.cell(keys(run)[attack]).table().num_rows


def test_an_honest_executor_computes_everything(run_with):
    run, outcome, events = run_with(Honest)
    assert set(outcome.statuses.values()) == {"ok"}
    assert outcome.computed == 16
    assert [event.what for event in events if event.what != "progress"] == ["started", "done"] * 4
    assert rows(run, "wander") == rows(run, "still") == 8


def test_a_shard_reported_twice_counts_once(run_with):
    class Twice(Honest):
        def one(self, task, tell):
            done = perform(task, "cpu", tell)
            tell(done)
            tell(done)

    run, outcome, _ = run_with(Twice)
    assert set(outcome.statuses.values()) == {"ok"}
    assert outcome.computed == 16
    assert rows(run, "wander") == rows(run, "still") == 8


def test_a_shard_that_vanishes_while_another_is_computed_is_computed_again(run_with):
    class Vanishing(Honest):
        def one(self, task, tell):
            super().one(task, tell)
            if task.first == 0 and len(self.made) == 1:
                (task.folder / "shard-00000-00003.parquet").unlink()

    run, outcome, _ = run_with(Vanishing)
    assert set(outcome.statuses.values()) == {"ok"}
    assert rows(run, "wander") == rows(run, "still") == 8
    assert len(Vanishing.made) == 2
    assert "computed again" in (outcome.folder / "log.txt").read_text()


def test_a_cell_whose_shards_always_vanish_fails_and_no_other_does(run_with):
    class Losing(Honest):
        def one(self, task, tell):
            done = perform(task, "cpu", tell)
            if task.cell.attack.label == "wander":
                (task.folder / "shard-00000-00003.parquet").unlink(missing_ok=True)
            tell(done)

    run, outcome, _ = run_with(Losing)
    assert outcome.statuses[keys(run)["wander"]] == "failed"
    assert "images 0 to 3 was not there" in outcome.reasons[keys(run)["wander"]]
    assert outcome.statuses[keys(run)["still"]] == "ok"
    assert not outcome.is_clean


@pytest.mark.parametrize("places", [(0,), (1,), (0, 1)], ids=["first", "last", "both"])
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda table: table.drop_columns(["id"]), id="no-ids"),
        pytest.param(
            lambda table: table.set_column(
                table.schema.get_field_index("label"), table.schema.field("label"),
                pa.array([77] * len(table), table.schema.field("label").type),
            ),
            id="no-such-class",
        ),
    ],
)  # fmt: skip
def test_shards_that_were_left_damaged_are_computed_again(run_with, places, spoil):
    run, _, _ = run_with(Honest)
    folder = run.laid.folder.cell(keys(run)["wander"])
    good = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    (folder.path / "cell.json").unlink()
    for place in places:
        path = folder.shards()[place].path
        table = pq.read_table(path)
        pq.write_table(spoil(table).replace_schema_metadata(table.schema.metadata), path)
    _, outcome, _ = run_with(Honest)
    assert set(outcome.statuses.values()) == {"ok"}
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == good
    assert "wander was left damaged" in (outcome.folder / "log.txt").read_text()


@pytest.mark.parametrize("status", ["failed", None], ids=["failed", "killed"])
def test_what_lies_beside_no_rows_is_of_nobody_knows_which_code(run_with, status):
    """A cell that failed before its first shard, and a target that was edited before the next try:
    ceiling and savings were those of the old one."""
    run, _, _ = run_with(Honest)
    key = keys(run)["wander"]
    folder = run.laid.folder.cell(key)
    good = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    for path in folder.path.iterdir():
        if path.name != "target.json":
            path.unlink()
    if status:
        seal(folder, run.laid.cells[key], status, "a mistake")
    target = json.loads((folder.path / "target.json").read_text())
    target["ceiling"] -= 1
    target["reference"] -= 1
    (folder.path / "target.json").write_text(json.dumps(target))
    (folder.path / "fit.json").write_text("{}")
    _, outcome, _ = run_with(Honest)
    assert set(outcome.statuses.values()) == {"ok"}
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == good


def test_a_worker_that_says_done_and_writes_nothing_seals_nothing(run_with):
    class Idle(Honest):
        def one(self, task, tell):
            tell(Event("done", task, share=1.0))

    run, outcome, _ = run_with(Idle)
    assert set(outcome.statuses.values()) == {"failed"}
    assert all(run.laid.folder.cell(key).sealed().status == "failed" for key in run.laid.cells)


def test_an_executor_that_reports_nothing_leaves_no_cell_open(run_with):
    class Silent(Honest):
        def run(self, tasks, tell):
            return None

    run, outcome, _ = run_with(Silent)
    assert set(outcome.statuses) == set(run.laid.cells)
    assert set(outcome.statuses.values()) == {"failed"}


def test_what_was_written_and_not_reported_counts(run_with):
    class Quiet(Honest):
        def one(self, task, tell):
            perform(task, "cpu", tell)

    run, outcome, _ = run_with(Quiet)
    assert set(outcome.statuses.values()) == {"ok"}
    assert rows(run, "wander") == 8


def test_a_cell_that_fails_in_one_worker_while_another_finishes_a_shard_of_it(run_with):
    """The shard comes late: the cell is over, nobody hears of it, and the other cells go on."""

    class Late(Honest):
        def run(self, tasks, tell):
            first, second = (task for task in tasks if task.cell.attack.label == "wander")
            for task in (first, second):
                tell(Event("started", task))
            tell(Event("problem", first, "failed", "its worker died"))
            self.one(second, tell)
            tell(Event("problem", second, "timeout", "late"))
            for task in tasks:
                if task.cell.attack.label == "still":
                    self.one(task, tell)

    run, outcome, events = run_with(Late)
    assert outcome.statuses[keys(run)["wander"]] == "failed"
    assert outcome.reasons[keys(run)["wander"]] == "its worker died"
    assert run.laid.folder.cell(keys(run)["wander"]).sealed().status == "failed"
    assert outcome.statuses[keys(run)["still"]] == "ok"
    told = [event.what for event in events if event.task.cell.attack.label == "wander"]
    assert told == ["started", "started", "problem"]


def test_the_display_hears_nothing_of_a_cell_that_is_over(run_with, tmp_path):
    """Its tally has let go of that cell."""
    from bench.cli.progress import Tally

    class Late(Honest):
        def run(self, tasks, tell):
            tell(Event("problem", tasks[0], "failed", "why"))
            super().run(tasks[1:], tell)

    run, _, events = run_with(Late)
    tally = Tally(run.laid)
    tally.prepare([event.task for event in events if event.what == "started"], 0)
    for event in events:
        tally.hear(event)


def test_rows_about_other_images_are_never_sealed(run_with):
    class Swapping(Honest):
        """Writes the shard of the second half where that of the first belongs."""

        def one(self, task, tell):
            done = perform(task, "cpu", tell)
            if task.first == 4:
                from bench.store.folder import CellFolder

                folder = CellFolder(task.folder)
                shards = folder.shards()
                tables = [folder.table().slice(4, 4), folder.table().slice(0, 4)]
                for shard, table in zip(shards, tables, strict=True):
                    record = {
                        name: value
                        for name, value in shard.record.items()
                        if name not in ("key", "schema")
                    }
                    folder.write_shard(shard.first, shard.last, table.to_pylist(), record)
            tell(done)

    run, outcome, _ = run_with(Swapping)
    assert set(outcome.statuses.values()) == {"failed"}
    assert "about other images" in outcome.reasons[keys(run)["wander"]]


def test_a_plan_is_written_only_by_who_holds_the_lock(run_with, tmp_path):
    run, _, _ = run_with(Honest)
    before = (run.laid.folder.path / "plan.json").read_bytes()
    (tmp_path / "plan.toml").write_text(PLAN.format(budget=12, images=8))
    laid = lay_out(load_plan(tmp_path / "plan.toml"), tmp_path, "r", "x", None, renew=True)
    assert (run.laid.folder.path / "plan.json").read_bytes() == before, "laying out writes nothing"
    with RunFolder(tmp_path / "r").locked(), pytest.raises(InUse):
        Run(laid, renew=True)(lambda tasks, there: None, lambda event: None)
    assert (run.laid.folder.path / "plan.json").read_bytes() == before


def test_a_plan_that_came_in_between_is_seen_under_the_lock(run_with, tmp_path):
    """Two commands lay out an empty folder; the one that comes second is refused."""
    (tmp_path / "plan.toml").write_text(PLAN.format(budget=12, images=8))
    late = lay_out(load_plan(tmp_path / "plan.toml"), tmp_path, "r", "x", None)
    run, _, _ = run_with(Honest)
    with pytest.raises(RunFolderError, match=r"protocol\.budget was 9, is 12"):
        Run(late)(lambda tasks, there: None, lambda event: None)
    assert read_plan(run.laid.folder).digest == run.laid.plan.digest


def test_a_damaged_record_of_a_cell_is_made_again(run_with):
    run, _, _ = run_with(Honest)
    path = run.laid.folder.cell(keys(run)["wander"]).path / "cell.json"
    before = path.read_bytes()
    path.write_text("[]")
    _, outcome, events = run_with(Honest)
    assert path.read_bytes() == before
    assert outcome.computed == 0, "its shards are there"
    assert events == []


def test_the_lock_is_let_go_when_a_run_ends_in_an_error(run_with, tmp_path):
    class Broken(Honest):
        def open(self):
            raise RunFolderError("no workers today")

    with contextlib.suppress(RunFolderError):
        run_with(Broken)
    with RunFolder(tmp_path / "r").locked():
        assert Path(tmp_path / "r" / "lock").is_file()


def test_shards_are_read_equally_often_however_many_there_are(run_with, monkeypatch):
    """Neither who computes a shard nor who seals its cell looks at all the others each time."""
    read = []
    real = CellFolder.shards
    monkeypatch.setattr(CellFolder, "shards", lambda self: read.append(1) or real(self))

    def times(images):
        read.clear()
        _, outcome, _ = run_with(Honest, name=f"r{images}", images=images)
        assert set(outcome.statuses.values()) == {"ok"}
        return len(read)

    assert times(8) == times(20)
