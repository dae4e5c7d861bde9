"""The tutorial is executed as it is written: its commands, its changes, its plan, its board."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # packages, a training and a run, each in a process of its own

PAGE = Path(__file__).parent.parent / "docs/guides/tutorial.md"
KINDS = ("target", "attack", "defense", "dataset", "recipe", "report")


def steps() -> Iterator[tuple[str, str]]:
    """(language, text) of the blocks of the page, in order."""
    text = PAGE.read_text(encoding="utf-8")
    yield from re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def change(folder: Path, block: str) -> int:
    """Apply a block of changes to the file that its first line names; how many there were."""
    name, *lines = block.splitlines()
    assert all(line[0] in "-+" for line in lines), block
    path = folder / name
    text = path.read_text(encoding="utf-8")
    changes = re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", "\n".join(lines) + "\n", re.MULTILINE)
    for before, after in changes:
        old, new = (re.sub(r"^[-+]", "", each, flags=re.MULTILINE) for each in (before, after))
        assert text.count(old) == 1, f"{name} has not this once:\n{old}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return len(changes)


@pytest.fixture(scope="module")
def followed(tmp_path_factory, child_environment):
    """The folder in which somebody followed the page, and how many changes were made."""
    folder = tmp_path_factory.mktemp("tutorial")
    # Tests install nothing beside gatebench: entry points come from `site`, sources from the
    # packages' own folders, which come first, as after `pip install -e`.
    sources = [str(folder / f"gatebench-{name}/src") for name in _names()]
    path = os.pathsep.join([*sources, str(folder / "site")])
    environment = child_environment(PYTHONPATH=path, GATEBENCH_HOME=str(folder / "home"))

    def call(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    changes, said = 0, {}
    for language, text in steps():
        if language == "diff":
            changes += change(folder, text)
        elif language == "toml":
            (folder / "plan.toml").write_text(text, encoding="utf-8")
        else:
            assert language == "console"
            for line in text.splitlines():
                program, *words = shlex.split(line.removeprefix("$ "))
                if program == "pip":
                    folders = [word for word in words[1:] if word != "-e"]
                    here = [f"./{name}" for name in folders]
                    options = ("--no-deps", "--no-build-isolation", "--target", "site")
                    call("pip", "install", "-q", "--disable-pip-version-check", *options, *here)
                else:
                    assert program == "gatebench"
                    said[line] = call("bench", *words)
    return folder, changes, said


def _names() -> list[str]:
    found = re.findall(r"plugin new (\w+) ([\w-]+)", PAGE.read_text(encoding="utf-8"))
    assert tuple(kind for kind, _ in found) == KINDS
    return [name for _, name in found]


@pytest.fixture(scope="module")
def board(followed):
    from bench.results.board import load_boards

    (found,) = load_boards(followed[0] / "runs/tutorial")
    return found


def test_every_command_and_change_of_the_page_was_made(followed):
    _, changes, said = followed
    assert changes == 7
    assert len([line for line in said if " plugin test " in line]) == 2
    for line, out in said.items():
        if " plugin test " in line:
            assert re.search(r"\d promises kept, 0 broken", out), out
    shown = said["$ gatebench show tutorial"]
    assert all(name in shown for name in ("my-net", "my-dark", "my-climb", "my-climb-before"))


def test_the_board_has_a_row_of_everything(board):
    assert {cell.status for cell in board.cells} == {"ok"}
    rows = {(cell.target, cell.defense, cell.attack) for cell in board.cells}
    targets = {target for target, _, _ in rows}
    assert len(targets) == 2
    assert rows >= {
        (target, defense, attack)
        for target in targets
        for defense in ("my-dark", "my-dark-before")
        for attack in ("noise", "my-climb", "my-climb-before")
    }


def _cells(board, target, attack):
    return {
        cell.defense: cell
        for cell in board.cells
        if target in cell.target and cell.attack == attack
    }


def test_numbers_show_the_changed_target_recipe_and_data_set(board):
    from targets.skipnet import SkipNet

    first = 16 * 16 * (3 * 9 * 16 + 16) + 17 * 3  # three classes, biases included
    second = 8 * 8 * (16 * 9 * 32 + 32) + 33 * 3
    net = _cells(board, "my-net", "noise")["my-dark"]
    assert net.ceiling == first + second
    assert {row.label for row in net.rows()} == {0, 1, 2}
    trained = _cells(board, "my-training", "noise")["my-dark"]
    deep, before = (SkipNet(depth=depth, num_classes=3) for depth in (14, 8))
    assert trained.ceiling == deep.ceiling
    assert trained.ceiling > before.ceiling


def test_numbers_show_the_changed_attack_and_defense(board):
    now = _cells(board, "my-net", "my-climb")
    before = _cells(board, "my-net", "my-climb-before")
    assert now[""].recovery.value == before[""].recovery.value == 1
    assert now[""].evaluations < before[""].evaluations
    assert now[""].psnr < before[""].psnr
    dark = now["my-dark"].clean_macs, now["my-dark-before"].clean_macs
    assert now[""].clean_macs > dark[0] > dark[1] == now[""].floor


def test_the_changed_report_says_what_the_board_says(followed, board):
    lines = (followed[0] / "lines/my-lines.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(board.cells)
    for line, cell in zip(lines, board.cells, strict=True):
        where = f"{cell.target} / {cell.defense or 'none'} / {cell.attack}: "
        assert line.startswith(where)
        assert line.endswith(f", ceiling {cell.ceiling}")
