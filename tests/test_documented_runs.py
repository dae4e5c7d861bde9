"""The commands of each page that compute something, run in the page's order on a plan of toys."""

import glob
import shutil

import pytest
from documents import ALL, CARDS, GENERATED, PAGES, ROOT, commands

SUITES = {path.stem for path in (ROOT / "bench/suites").glob("*.toml")}
HERE = ("--in-process", "--no-report")
MORE = {
    "run": HERE,
    "beat": HERE,
    "check": ("--in-process",),
    "merge": ("--no-report",),
    "accept": ("--no-report",),
    "withdraw": ("--no-report",),
    "transfer": ("--no-report",),
    "latency": ("--images", "1", "--repeats", "1"),
    "headroom": ("--images", "2", "--times", "2"),
}
"""What keeps a command small."""
RUNS = (
    *("RUN", "RUN-training", "now", "cifar10", "cifar10-patch"),
    *("cifar10-128", "cifar10-skipnets-256", "gradauto-table1"),
)
"""What runs are called on the pages, beside `board` and `my-run`."""
TAKEN = {"--images": "6", "--only": "toy random:0 / "}
"""What options of `run` are given in place of what suites have."""
COMPUTING = {
    *("run", "baseline", "check", "compare", "show", "report", "publish", "export", "verify"),
    *("transfer", "headroom", "latency", "submit", "accept", "withdraw", "beat", "merge"),
}
ELSEWHERE = {
    ("train",): "test_commands_in_docs begins the trainings of cards; the rest is tests of train",
    ("weights",): "needs a checkpoint of others: tests/bench/cli/test_import_pretrained.py",
    ("plugin",): "tests/bench/cli/test_plugin.py, and the guides' own tests",
    ("doctor",): "tests/bench/cli/test_doctor.py",
    ("list",): "test_commands_in_docs",
    ("plan",): "test_commands_in_docs",
    ("cite",): "test_commands_in_docs",
    ("--help",): "test_commands_in_docs",
    ("--version",): "test_commands_in_docs",
}
"""Beginnings of the commands that are not run here, and where they are."""


def computing(page):
    """The commands of a page that compute, with all they need, in order."""
    found = [words for words, whole in commands(page) if whole or len(words) > 1]
    return [
        words for words in found if words and words[0] in COMPUTING and "…" not in " ".join(words)
    ]


WITH_RUNS = [
    page
    for page in PAGES
    if page not in CARDS and GENERATED not in page.parents and computing(page)
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the first test leaves the runs that all start from."""
    return tmp_path_factory.mktemp("kept") / "runs"


@pytest.fixture
def runs(gatebench, tmp_path, kept):
    """Runs of the names that pages use, and my-plan.toml; returns `gatebench`."""
    if kept.exists():
        shutil.copytree(kept, tmp_path / "runs")
    plan = (tmp_path / "plan.toml").read_text()
    board = plan.replace('use = "wander"', 'use = "wander"\nlabel = "stranger"')
    mine = plan.replace('[[attack]]\nuse = "still"\n', "").replace(
        'use = "wander"', 'use = "wander"\nlabel = "mine"'
    )
    for name, text in (("board", board), ("my-run", mine)):
        (tmp_path / "small.toml").write_text(text)
        if not kept.exists():
            code, _, err = gatebench("run", "small.toml", "--name", name, *HERE)
            assert code == 0, err
    if not kept.exists():
        shutil.copytree(tmp_path / "runs", kept)
    for name in RUNS:
        shutil.copytree(tmp_path / "runs/board", tmp_path / "runs" / name)
    for name in ("plan.toml", "my-plan.toml"):
        (tmp_path / name).write_text(board)
    return gatebench


def small(words, folder):
    """The command on what is in the folder, in place of suites, of FILE, and of keys."""
    command, *rest = words
    made = [command]
    for word in rest:
        if len(made) == 1 and command == "run" and word in {"PLAN", "FILE", *SUITES}:
            word = "plan.toml"
        elif word == "RUN...":
            word = "RUN"
        elif command == "beat" and len(word) >= 8 and set(word) <= set("0123456789abcdef"):
            word = "toy random:0 / stranger"
        elif command == "run" and made[-1] in TAKEN:
            word = TAKEN[made[-1]]
        made += sorted(glob.glob(word, root_dir=folder)) if "*" in word else [word]
    return [*made, *MORE.get(command, ())]


SLOW = pytest.mark.slow  # a dozen runs, pages of all of them


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            marks=[SLOW] if page.parent.name == "results" else [],
            id=page.relative_to(ROOT).as_posix(),
        )
        for page in WITH_RUNS
    ],
)
def test_the_commands_of_a_page_run(page, runs, tmp_path):
    for words in computing(page):
        if words[0] == "run" and "--name" in words:
            shutil.rmtree(tmp_path / "runs" / words[words.index("--name") + 1], ignore_errors=True)
        if any("*of20" in word for word in words):
            for number in (1, 2):
                share = ("run", "plan.toml", "--name", "big", "--share", f"{number}/2", *HERE)
                assert runs(*share)[0] in (0, 4)
                (tmp_path / f"runs/big-{number}of2").rename(tmp_path / f"runs/big-{number}of20")
            shutil.rmtree(tmp_path / "runs/big", ignore_errors=True)
        code, out, err = runs(*small(words, tmp_path))
        assert code == 0, (words, err)
        assert (out + err).strip() or "-q" in words


def test_every_command_is_run_somewhere():
    pages = {words for page in WITH_RUNS for words in map(tuple, computing(page))}
    for words, whole in ALL:
        if words and (whole or len(words) > 1):
            assert words in pages or words[:1] in ELSEWHERE or ALL[words, whole] in CARDS, words
    assert len(pages) > 15
