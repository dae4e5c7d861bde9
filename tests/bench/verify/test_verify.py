"""A run held against itself: honest ones hold, and every forgery is found, also one that mended its
digests."""

import hashlib
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from mischief_site import SITE
from PIL import Image

from bench.cli import main
from bench.plans.stored import read_plan
from bench.plugins import registry
from bench.runs.seal import aggregates, flags_of, seal
from bench.store.folder import CellFolder, RunFolder
from bench.verify.components import component_problems
from bench.verify.findings import LEFT_OUT, NOT_DRAWN, UNCHECKED
from bench.verify.verify import verify

PLAN = """schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 8
batch = 4
threat = { norm = "linf", eps = "64/255" }
budget = 9
[run]
device = "cpu"
shard = 4
[[target]]
use = "toy"
weights = "random:0"
[[defense]]
use = "bit-depth"
[[defense]]
use = "smoothing"
label = "smoothing"
params = { draws = 3 }
[[attack]]
use = "wander"
params = { step = 0.2 }
"""
ENSEMBLE = (
    PLAN.replace(
        """[[defense]]
use = "smoothing"
label = "smoothing"
params = { draws = 3 }
""",
        "",
    )
    + '[[attack]]\nuse = "autoenergy"\n'
)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A finished run of a toy, bare and behind two defenses, under an attack."""
    yield from finished(tmp_path_factory.mktemp("verify"), PLAN)


@pytest.fixture(scope="module")
def combined(tmp_path_factory):
    """The same under an ensemble too, behind one defense that draws nothing."""
    yield from finished(tmp_path_factory.mktemp("combined"), ENSEMBLE)


def finished(folder, plan):
    """The folder of a run of this plan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SITE))
        registry.providers.cache_clear()
        (folder / "plan.toml").write_text(plan)
        with pytest.raises(SystemExit) as end:
            main(
                [
                    "run",
                    str(folder / "plan.toml"),
                    "--out",
                    str(folder),
                    "--name",
                    "r",
                    "--in-process",
                    "--no-report",
                ]
            )
        assert end.value.code == 0
        yield folder / "r"
    registry.providers.cache_clear()


@pytest.fixture
def run(honest, tmp_path, plugins):
    """A copy to be tampered with."""
    return RunFolder(shutil.copytree(honest, tmp_path / "r"))


@pytest.fixture
def ensemble(combined, tmp_path, plugins):
    """A copy of the run with an ensemble."""
    return RunFolder(shutil.copytree(combined, tmp_path / "combined" / "r"))


def cell(run, attack="wander", defense=""):
    for key, found in read_plan(run).cells.items():
        if found.attack.label.startswith(attack) and found.who[1] == defense:
            return run.cell(key)
    raise KeyError(attack)


def rewritten(folder: CellFolder, change):
    """Rows changed and everything mended that stands beside them: metadata, digests, sums."""
    for shard in folder.shards():
        rows = pq.read_table(shard.path).to_pylist()
        for row in rows:
            change(row)
        record = {
            name: value for name, value in shard.record.items() if name not in ("key", "schema")
        }
        folder.write_shard(shard.first, shard.last, rows, record)
    planned, table = read_plan(RunFolder(folder.path.parents[1])).cells[folder.key], folder.table()
    document = replace(
        folder.sealed(),
        flags=tuple(flags_of(folder, planned, table)),
        aggregates=aggregates(table),
        shards={one.path.name: sha256_of(one.path) for one in folder.shards()},
    ).document()
    (folder.path / "cell.json").write_text(json.dumps(document))


def sha256_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def repainted(row, column, value):
    picture = np.array(Image.open(io.BytesIO(row[column]["bytes"])))
    picture[0, 0, 0] = value
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format="PNG")
    row[column] = {**row[column], "bytes": out.getvalue()}


READ_ALONE = ["no cell is called so"]
"""Cells to execute where reading has to be enough."""


def test_an_honest_run_holds_to_the_last_image(run, ensemble):
    for honest, images, least in ((run, None, 3), (ensemble, 2, 7)):
        found = verify(honest, images=images, seed=1)
        assert found.problems == []
        assert found.holds
        assert found.cells >= least
        assert found.images == 8 * found.cells
        assert found.executed == 2 * (images or 8) * found.cells
        assert found.counted > 0


def test_a_flipped_byte_is_found(run):
    path = next(iter(cell(run).shards())).path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert any(
        "is missing, or not what was sealed" in problem
        for problem in verify(run, images=1, seed=1, only=READ_ALONE).problems
    )


def dearer(row):
    row["adversarial_macs"] += 9472


def nearer(row):
    row["squared"] -= 1


def another_answer(row):
    row["adversarial_prediction"] = (row["adversarial_prediction"] + 1) % 4


def other_units(row):
    row["adversarial_decisions"] = bytes(255 - byte for byte in row["adversarial_decisions"])


def far_away(row):
    repainted(row, "adversarial", 255)
    repainted(row, "image", 0)


def another_picture(row):
    repainted(row, "image", 7)


@pytest.mark.parametrize(
    ("forgery", "said"),
    [
        (dearer, "adversarial_macs is"),
        (nearer, "squared is"),
        (another_answer, "adversarial_prediction is"),
        (other_units, "adversarial_decisions is"),
        (far_away, "lies outside"),
        (another_picture, "is not the data set's"),
    ],
)
@pytest.mark.parametrize("defense", ["", "smoothing"])
def test_a_forgery_with_mended_digests_is_found(run, forgery, said, defense):
    forged = cell(run, defense=defense)
    rewritten(forged, forgery)
    label = read_plan(run).cells[forged.key].label
    found = verify(run, images=None, seed=1, only=[label])
    assert any(said in problem for problem in found.problems), found.problems


def other_jpeg(row):
    row["jpeg_macs"] = (
        row["clean_macs"] - 1 if row["jpeg_macs"] == row["clean_macs"] else row["clean_macs"]
    )


def other_float(row):
    row["float_macs"] = 10**9


def fewer_evaluations(row):
    row["evaluations"] -= 1


def more_flips(row):
    row["flipped"] = row["held"] + 1


def sure_gates(row):
    row["near_threshold"] += 3


def falling_trace(row):
    row["trace"] = [dict(point, macs=100 - i) for i, point in enumerate(2 * row["trace"])]


def late_trace(row):
    row["trace"] = [dict(point, evaluations=10**6) for point in row["trace"]]


@pytest.mark.parametrize(
    ("forgery", "said"),
    [
        pytest.param(other_jpeg, "jpeg_macs is", id="jpeg"),
        pytest.param(other_float, "outside the floor and bound", id="float"),
        pytest.param(fewer_evaluations, "evaluations are not its passes", id="evaluations"),
        pytest.param(more_flips, "flipped is more than held", id="flipped"),
        pytest.param(sure_gates, "near_threshold is", id="near-threshold"),
        pytest.param(falling_trace, "its trace does not hang together", id="falling-trace"),
        pytest.param(late_trace, "its trace does not hang together", id="late-trace"),
    ],
)
def test_columns_that_no_ranking_reads_are_checked_too(run, forgery, said):
    rewritten(cell(run), forgery)
    executed = (
        ["random:0 / wander"] if said in ("jpeg_macs is", "near_threshold is") else READ_ALONE
    )
    found = verify(run, images=None, seed=1, only=executed)
    assert any(said in problem for problem in found.problems), found.problems


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            lambda found: found.update(flags=[]), "has the flags none, made again", id="flags-gone"
        ),
        pytest.param(
            lambda found: found["flags"].append("zero-gradient"), "has the flags", id="flag-added"
        ),
        pytest.param(
            lambda found: found["environment"].update(threads=99),
            "another environment than its shards",
            id="environment",
        ),
        pytest.param(
            lambda found: found.update(fit={"images": 1, "evaluations": 1, "sha256": "0" * 64}),
            "different things of the fit",
            id="fit",
        ),
    ],
)
def test_what_cell_json_says_is_made_again(run, change, said):
    rewritten_json(cell(run, defense="smoothing").path / "cell.json", change)
    found = verify(run, images=1, seed=1, only=READ_ALONE)
    assert any(said in problem for problem in found.problems), found.problems


def test_the_winners_of_an_ensemble_are_made_again(ensemble):
    rewritten_json(
        cell(ensemble, "autoenergy").path / "cell.json",
        lambda found: found["combination"]["members"][0].update(wins=10**6),
    )
    found = verify(ensemble, images=1, seed=1, only=READ_ALONE)
    assert any("another combination than its members make" in text for text in found.problems)


def test_an_ensemble_of_an_older_run_holds_and_is_remarked_upon(ensemble):
    """Runs of before said nothing of what an ensemble would lose without each member."""
    folder = cell(ensemble, "autoenergy")
    members = folder.sealed().combination.members
    assert any(member.adds for member in members)

    def older(found):
        for member in found["combination"]["members"]:
            del member["adds"]

    rewritten_json(folder.path / "cell.json", older)
    found = verify(ensemble, images=1, seed=1, only=READ_ALONE)
    assert not any("combination" in text for text in found.problems)
    assert any("would lose without each member" in text for text in found.remarks)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            lambda found: found["gradients"].update(zero=3, images=9),
            "says gradients",
            id="gradients",
        ),
        pytest.param(lambda found: found["noise"].update(margins=10.0), "says noise", id="noise"),
        pytest.param(
            lambda found: found["dataset"].update(note="true pictures"), "says dataset", id="note"
        ),
        pytest.param(lambda found: found.update(classes=["x"]), "says classes", id="classes"),
        pytest.param(
            lambda found: found.update(trained_on="imagenet"), "says trained_on", id="trained-on"
        ),
        pytest.param(
            lambda found: found["units"].update(alarm=[0]), "names other units", id="alarm"
        ),
        pytest.param(
            lambda found: found.update(image_shape=[3, 9, 9]), "says image_shape", id="image-shape"
        ),
    ],
)
def test_all_of_a_description_is_made_again(run, change, said):
    rewritten_json(cell(run).path / "target.json", change)
    found = verify(run, images=1, seed=1, only=["random:0 / wander"])
    assert any(said in problem for problem in found.problems), found.problems


def declared(**said):
    """A change of what a plan says of the attack."""

    def change(component):
        return replace(component, **said)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(declared(control=True), "says control = True, the plugin has", id="control"),
        pytest.param(declared(version=7), "says version = 7, the plugin has 1", id="version"),
        pytest.param(declared(fits=True), "says fits = True, the plugin has", id="fits"),
        pytest.param(declared(value="os:system"), "says value = 'os:system'", id="value"),
        pytest.param(declared(preset="paper"), "has no preset 'paper'", id="preset"),
        pytest.param(declared(params={"nothing": 1}), "unknown parameter 'nothing'", id="param"),
        pytest.param(
            declared(params={"step": True}), "params.step: expected", id="true-for-number"
        ),
        pytest.param(declared(name="wonder"), "unknown attack", id="name"),
    ],
)
def test_what_a_plan_says_of_an_attack_is_held_against_the_plugin(run, change, said):
    attack = next(iter(read_plan(run).cells.values())).attack
    assert list(component_problems("attack", attack)) == []
    (problem,) = component_problems("attack", change(attack))
    assert said in problem


def test_members_of_an_ensemble_are_held_against_the_plugin(ensemble):
    attack = read_plan(ensemble).cells[cell(ensemble, "autoenergy").key].attack
    assert list(component_problems("attack", attack)) == []
    (problem,) = component_problems("attack", replace(attack, members=attack.members[1:]))
    assert "names other members than the plugin has" in problem


def test_an_attack_that_was_made_a_control_is_found(run):
    """With digest, key and cell.json made again: a control is not ranked."""

    def control(part):
        part["attack"]["control"] = True

    def changed(plan):
        for entry in plan["boards"][0]["cells"]:
            control(entry)

    rewritten_json(run.path / "plan.json", changed)
    digest = read_plan(run).content_digest()
    rewritten_json(run.path / "plan.json", lambda plan: plan.update(digest=digest))
    for key in read_plan(run).cells:
        rewritten_json(run.cell(key).path / "cell.json", lambda found: control(found["inputs"]))
    (problem,) = verify(run, images=1, seed=1, only=READ_ALONE).problems[:-1]
    assert "plan.json says control = True, the plugin has False" in problem


def test_sums_that_no_row_has_are_found(run):
    rewritten_json(cell(run).path / "cell.json", lambda found: found["aggregates"].update(saved=7))
    problems = verify(run, images=1, seed=1, only=READ_ALONE).problems
    assert any("says saved = 7, the rows add up to None" in text for text in problems)


def test_the_name_of_the_data_set_is_made_again(run):
    rewritten_json(
        run.path / "plan.json", lambda plan: plan["boards"][0].update(dataset="imagenet:val")
    )
    found = verify(run, images=1, seed=1, only=READ_ALONE)
    assert any("its dataset is not that of the data set" in text for text in found.problems)


def test_pictures_of_another_size_are_refused_before_they_are_decoded(run):
    out = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(out, format="PNG")

    def huge(row):
        row["adversarial"] = {**row["adversarial"], "bytes": out.getvalue()}

    rewritten(cell(run), huge)
    found = verify(run, images=1, seed=1, only=READ_ALONE)
    assert any("4000x4000 pixels, expected" in text for text in found.problems), found.problems


def test_an_ensemble_that_is_none_of_its_members_is_found(ensemble):
    rewritten(cell(ensemble, "autoenergy", "bit-depth"), dearer)
    found = verify(ensemble, images=1, seed=1, only=["nothing"])
    assert any("its strongest member has" in problem for problem in found.problems), found.problems


def test_inputs_and_keys_are_made_anew(run):
    folder = cell(run)
    rewritten_json(
        folder.path / "cell.json",
        lambda found: found["inputs"]["attack"]["params"].update(step=0.1),
    )
    assert any(
        "made with other inputs" in problem
        for problem in verify(run, images=1, seed=1, only=READ_ALONE).problems
    )
    rewritten_json(
        run.path / "plan.json",
        lambda plan: [
            entry["attack"]["params"].update(step=0.1) for entry in plan["boards"][0]["cells"]
        ],
    )
    assert any(
        "what the plan says of it makes" in problem
        for problem in verify(run, images=1, seed=1, only=READ_ALONE).problems
    )


def rewritten_json(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_missing_rows_are_found(run):
    folder = cell(run)
    first, second = folder.shards()
    second.path.unlink()
    rewritten_json(folder.path / "cell.json", lambda found: found["shards"].pop(second.path.name))
    sealed = folder.sealed()
    assert hashlib.sha256(first.path.read_bytes()).hexdigest() == sealed.shards[first.path.name]
    problems = verify(run, images=1, seed=1, only=READ_ALONE).problems
    assert any("holds 4 images, its protocol says 8" in problem for problem in problems)
    assert any("the rows add up to" in problem for problem in problems)


def test_other_images_another_order_and_labels_are_found(run):
    folder = cell(run)
    rewritten(folder, lambda row: row.update(label=row["adversarial_prediction"]))
    assert any(
        "label is" in problem for problem in verify(run, images=1, seed=1, only=READ_ALONE).problems
    )
    first, second = folder.shards()
    parts = [pq.read_table(shard.path).to_pylist() for shard in (first, second)]
    record = {name: value for name, value in first.record.items() if name not in ("key", "schema")}
    folder.write_shard(first.first, first.last, parts[1], record)
    folder.write_shard(second.first, second.last, parts[0], record)
    seal(folder, read_plan(run).cells[folder.key], "ok")
    assert any(
        "not the first of the data set, in their order" in problem
        for problem in verify(run, images=1, seed=1, only=READ_ALONE).problems
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            lambda found: found.update(reference=2 * found["reference"]),
            "target.json says reference = 71238",
            id="reference",
        ),
        pytest.param(lambda found: found.update(floor=1), "target.json says floor = 1", id="floor"),
        pytest.param(
            lambda found: found["units"].update(cost=[1, 1, 1]), "names other units", id="units"
        ),
    ],
)
def test_what_is_said_of_a_target_is_held_against_it(run, change, said):
    rewritten_json(cell(run).path / "target.json", change)
    assert any(
        said in problem
        for problem in verify(run, images=1, seed=1, only=["random:0 / wander"]).problems
    )


def test_noise_is_measured_anew_and_excuses_no_forgery(run):
    folder = cell(run)
    rewritten_json(
        folder.path / "target.json",
        lambda found: found.update(noise={"logits": 1e9, "margins": 1e9}),
    )
    rewritten(folder, lambda row: row.update(adversarial_macs=7203, adversarial_decisions=b"\0"))
    assert any(
        "executed again" in problem
        for problem in verify(run, images=None, seed=1, only=["random:0 / wander"]).problems
    )


def test_a_price_that_its_decisions_do_not_have_is_found_in_every_row(run):
    changed = []

    def one(row):
        if not changed:
            row["adversarial_macs"] += 1
            changed.append(row["id"])

    rewritten(cell(run), one)
    problems = verify(run, images=1, seed=1, only=["random:0 / wander"]).problems
    assert any(changed[0] in problem and "its decisions cost" in problem for problem in problems)


def test_a_cell_does_not_vanish_unseen(run):
    folder = cell(run)
    rewritten_json(
        folder.path / "cell.json", lambda found: found.update(status="skipped", reason="no gates")
    )
    assert any(
        "is skipped (no gates), but the attack does run there" in problem
        for problem in verify(run, images=1, seed=1, only=READ_ALONE).problems
    )
    rewritten_json(run.path / "plan.json", lambda plan: plan["boards"][0]["cells"].pop(0))
    assert any(
        "plan.json states the digest" in problem
        for problem in verify(run, images=1, seed=1, only=READ_ALONE).problems
    )


def test_shards_that_nobody_sealed_are_found(run):
    folder = cell(run)
    first, second = folder.shards()
    rows = [row for shard in (first, second) for row in pq.read_table(shard.path).to_pylist()]
    record = {name: value for name, value in first.record.items() if name not in ("key", "schema")}
    folder.write_shard(0, len(rows) - 1, rows, record)
    problems = verify(run, images=1, seed=1, only=READ_ALONE).problems
    assert any("not what was sealed" in problem for problem in problems), problems


def test_damage_is_one_cells_problem(run):
    def truncated(row):
        row["adversarial"] = {**row["adversarial"], "bytes": row["adversarial"]["bytes"][:40]}

    rewritten(cell(run), truncated)
    (cell(run, defense="bit-depth").path / "target.json").unlink()
    found = verify(run, images=1, seed=1)
    assert any(
        problem.startswith("toy random:0 / wander step=0.2: ") and "cannot be read" in problem
        for problem in found.problems
    )
    assert any(
        "toy random:0 + bit-depth" in problem and "target.json" in problem
        for problem in found.problems
    )
    assert found.executed > 0, "the others are looked at all the same"


def test_other_code_and_other_weights_are_told(run, monkeypatch):
    import bench.verify.provenance

    monkeypatch.setattr(bench.verify.provenance, "sources", lambda entry: {"target": "other"})
    found = verify(run, images=1, seed=1)
    assert found.holds
    assert any("made by other code than is here" in remark for remark in found.remarks)


def test_what_making_a_plugin_read_is_told(run):
    """A module or a data file that a plugin reads differs from the one that made the shards."""
    wander = cell(run)
    then = json.loads((wander.path / "cell.json").read_bytes())["environment"]["reads"]
    assert then["attack"]
    assert verify(run, images=1, seed=1, only=["random:0 / wander"]).remarks == []

    def made_with(reads):
        for shard in wander.shards():
            rows = pq.read_table(shard.path).to_pylist()
            record = {name: value for name, value in shard.record.items() if name != "reads"}
            record |= {"reads": reads} if reads is not None else {}
            wander.write_shard(shard.first, shard.last, rows, record)
        seal(wander, read_plan(run).cells[wander.key], "ok")
        found = verify(run, images=1, seed=1, only=["random:0 / wander"])
        assert found.holds, found.problems
        return "; ".join(found.remarks)

    name = next(iter(then["attack"]))
    other = {**then, "attack": {**then["attack"], name: "0" * 16, "file:gone.json": "1" * 16}}
    said = made_with(other)
    assert f"{name} was {'0' * 16}, is {then['attack'][name]}" in said
    assert f"file:gone.json was {'1' * 16}, is not read" in said
    assert "its shards do not say what making it read" in made_with(None)


def test_nothing_looked_at_is_no_proof(run):
    assert any(
        "no cell has nosuch" in problem
        for problem in verify(run, images=1, seed=1, only=["nosuch"]).problems
    )


def unchecked(text):
    """The lines of a verdict on what was not checked."""
    told = [line.partition("not checked: ")[2] for line in text.splitlines()]
    return [line for line in told if line]


@pytest.mark.parametrize(
    ("options", "more"),
    [
        pytest.param(["--all"], [], id="all"),
        pytest.param(["--images", "3"], [NOT_DRAWN.format(3 * 5)], id="some-images"),
        pytest.param(["--images", "8"], [], id="as-many-as-there-are"),
        pytest.param(
            ["--all", "--only", "bit-depth"],
            [
                LEFT_OUT.format(
                    "toy random:0 / wander step=0.2, toy random:0 + smoothing / wander step=0.2"
                )
            ],
            id="some-cells",
        ),
        pytest.param(
            ["--images", "7", "--only", "bit-depth", "--only", "smoothing"],
            [LEFT_OUT.format("toy random:0 / wander step=0.2"), NOT_DRAWN.format(2)],
            id="some-of-both",
        ),
    ],
)
def test_the_verdict_names_everything_that_was_not_checked(
    gatebench, honest, tmp_path, monkeypatch, options, more
):
    monkeypatch.setenv("COLUMNS", "1000")
    shutil.copytree(honest, tmp_path / "runs/r")
    code, out, _ = gatebench("verify", "r", "--seed", "1", *options, "--json", "found.json")
    assert code == 0, out
    assert unchecked(out) == [*UNCHECKED, *more]
    assert json.loads((tmp_path / "found.json").read_text())["unchecked"] == [*UNCHECKED, *more]


def test_a_number_of_a_cell_that_is_left_out_is_said_to_be_unchecked(run):
    """Its floor, edited, is no difference that reading alone could see."""
    left_out = cell(run, defense="smoothing")
    rewritten_json(left_out.path / "target.json", lambda found: found.update(floor=1))
    found = verify(run, images=None, seed=1, only=["bit-depth"])
    (said,) = (text for text in found.unchecked if "floor" in text and "target.json" in text)
    assert "toy random:0 + smoothing / wander" in said
    assert verify(run, images=None, seed=1, only=["smoothing"]).problems


@pytest.mark.parametrize("name", ["reason", "detail"])
def test_a_cell_that_is_ok_has_no_reason(run, name):
    rewritten_json(cell(run).path / "cell.json", lambda found: found.update({name: "as promised"}))
    found = verify(run, images=1, seed=1, only=READ_ALONE)
    assert any("gives a reason or a detail" in text for text in found.problems), found.problems


def test_the_command_ends_with_ten_where_something_does_not_hold(gatebench, honest, tmp_path):
    shutil.copytree(honest, tmp_path / "runs/r")
    code, out, _ = gatebench("verify", "r", "--images", "2")
    assert code == 0
    assert "everything that was checked holds" in out
    rewritten(cell(RunFolder(tmp_path / "runs/r")), nearer)
    code, out, _ = gatebench("verify", "r", "--images", "2", "--json", "found.json")
    assert code == 10
    assert "WRONG: toy random:0 / wander" in out
    document = json.loads((tmp_path / "found.json").read_text())
    assert not document["holds"]
    assert document["problems"]
