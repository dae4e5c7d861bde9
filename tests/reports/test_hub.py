"""Exports for model hubs: read back with the hub's own reader, YAML and parquet."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from PIL import Image
from synthetic import full_board

from bench.errors import PlanError
from reports.hub import Hub

BOARD = full_board(n=3)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Two boards of one name, exported."""
    folder = tmp_path_factory.mktemp("hub") / "out"
    report = Hub(dataset="lab/boards", source="https://example.org/run", images=2)
    report.render_all([BOARD, replace(BOARD, terms="other terms")], folder)
    return folder


def front_matter(path):
    _, head, _ = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head)


def test_results_are_read_by_the_hub(out):
    ranked = [one for one in BOARD.standings if one.surviving_saving.value is not None]
    files = sorted(out.glob("models/*/.eval_results/gatebench.yaml"))
    assert len(files) == len(ranked) > 0
    values = set()
    for path in files:
        entries = parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
        assert len(entries) == 2
        assert {entry.dataset_id for entry in entries} == {"lab/boards"}
        assert entries[0].task_id != entries[1].task_id
        assert entries[0].source_url == "https://example.org/run"
        assert "saving left" in entries[0].notes
        values.add(entries[0].value)
    assert values == {round(100 * one.surviving_saving.value, 2) for one in ranked}


def test_a_result_says_which_attacks_its_network_did_not_stand():
    standings = [replace(one, lacks=("pry", "nes")) for one in BOARD.standings]
    files = dict(Hub().files([replace(BOARD, standings=tuple(standings))]))
    results = [content.decode() for name, content in files.items() if name.startswith("models/")]
    assert results
    assert all('; not ranked, lacks pry, nes"' in text for text in results)


def test_tasks_of_results_are_those_of_the_data_set(out):
    tasks = yaml.safe_load((out / "dataset" / "eval.yaml").read_text())["tasks"]
    configs = front_matter(out / "dataset" / "README.md")["configs"]
    names = {config["config_name"] for config in configs}
    assert {task["config"] for task in tasks} <= names
    for path in out.glob("models/*/.eval_results/*.yaml"):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
            assert entry["dataset"]["task_id"] in {task["id"] for task in tasks}


def test_every_configuration_of_the_card_has_its_files(out):
    for config in front_matter(out / "dataset" / "README.md")["configs"]:
        for part in config["data_files"]:
            assert list((out / "dataset").glob(part["path"])), part


def test_viewers_find_pictures_and_the_type_of_every_column(out):
    finished = [cell for cell in BOARD.cells if cell.status == "ok"]
    files = sorted(out.glob("dataset/data/images/*/*.parquet"))
    assert len(files) == 2 * len(finished)
    table = pq.read_table(files[0])
    assert table.num_rows == 2
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.column_names
    assert features["adversarial"] == {"_type": "Image"}
    assert features["psnr"] == {"dtype": "float64", "_type": "Value"}
    row = table.to_pylist()[0]
    assert Image.open(io.BytesIO(row["adversarial"]["bytes"])).format == "PNG"
    assert (row["target"], row["attack"]) == (finished[0].target, finished[0].attack)


def test_the_same_boards_give_the_same_bytes():
    first, second = (dict(Hub(dataset="a/b").files([BOARD])) for _ in range(2))
    assert first == second


def renamed(board, label, **target):
    """The first target of a board alone, with another label, weights and so on."""
    standing = board.standings[0]
    cells = [cell for cell in board.cells if cell.who == (standing.target, standing.defense)]
    inputs = [{**one.inputs, "target": {**one.inputs["target"], **target}} for one in cells]
    return replace(
        board,
        standings=(replace(standing, target=label),),
        cells=tuple(
            replace(cell, target=label, inputs=made)
            for cell, made in zip(cells, inputs, strict=True)
        ),
    )


@pytest.mark.parametrize(
    ("labels", "digests", "files"),
    [
        (("net a", "net-a"), "00", 2),
        (("net", "NET"), "00", 2),
        (("n" * 90 + "1", "n" * 90 + "2"), "00", 2),
        (("net", "net"), "01", 2),
        (("net", "net"), "00", 1),
    ],
    ids=["one-slug", "case", "long", "other-weights", "same"],
)
def test_results_of_two_networks_are_never_in_one_file(tmp_path, labels, digests, files):
    boards = [
        renamed(BOARD, label, digest=digest * 64)
        for label, digest in zip(labels, digests, strict=True)
    ]
    Hub(dataset="a/b", images=0).render_all(boards, tmp_path / "out")
    found = sorted(tmp_path.glob("out/models/*/.eval_results/gatebench.yaml"))
    assert len({path.parts[-3].casefold() for path in found}) == len(found) == files
    entries = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in found]
    assert sum(map(len, entries)) == 2


def test_foreign_text_stays_text(tmp_path: Path):
    first = BOARD.standings[0]
    standing = replace(first, strongest='x"\n- dataset: {id: evil}')
    wanted = (first.target, first.defense, first.strongest)
    (cell,) = [one for one in BOARD.cells if (*one.who, one.attack) == wanted]
    other = replace(cell, attack=standing.strongest)
    board = replace(BOARD, cells=(other,), standings=(standing,), name="a | b\n---\nlicense: x")
    Hub(dataset="a/b", images=0).render_all([board], tmp_path / "out")
    (path,) = (tmp_path / "out").glob("models/*/.eval_results/gatebench.yaml")
    (entry,) = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert entry["dataset"]["id"] == "a/b"
    assert front_matter(tmp_path / "out" / "dataset" / "README.md")["license"] == "other"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset": "board"}, "is no OWNER/NAME"),
        ({"source": "javascript:x"}, "is no link"),
        ({"license": "a b"}, "is no identifier"),
    ],
    ids=["dataset", "source", "license"],
)
def test_what_a_hub_would_not_take_is_refused(options, said):
    with pytest.raises(PlanError, match=said):
        Hub(**options)
