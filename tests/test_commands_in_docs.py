"""The commands that documents show: they parse, those that can are run, and cards train again."""

import re
import shlex
import tomllib

import click
import pytest
from documents import ALL, CARDS, PAGES, ROOT, blocks

from bench.cli import COMMANDS, cli


def parsed(words):
    """The command of some words with its arguments read, as click does before it is called."""
    context = click.Context(cli, info_name="gatebench")
    command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command, words = command.get_command(context, words[0]), words[1:]
        assert command is not None
        context = click.Context(command, parent=context)
    if isinstance(command, click.Group):
        return command
    command.make_context("gatebench", list(words))
    return command


@pytest.mark.parametrize(
    ("words", "whole"), ALL, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_commands_parse(words, whole):
    try:
        parsed(words)
    except click.MissingParameter:
        assert not whole
    except click.exceptions.Exit:  # --help
        assert words[-1] in ("--help", "--version")


def test_there_are_many():
    assert len(ALL) > 80
    assert {words[0] for words, _ in ALL if words} >= {"run", "plan", "show", "train", "check"}
    with pytest.raises(click.UsageError, match="No such option"):
        parsed(("run", "plan.toml", "--imagse", "3"))


LOOKING = [
    words
    for words, _ in ALL
    if words and words[0] in ("list", "plan", "cite")
    and not any(part.isupper() or "my-" in part for part in words)
    and words != ("plan",)
]  # fmt: skip


@pytest.mark.parametrize("words", LOOKING, ids=" ".join)
def test_commands_that_only_look_are_run(words, gatebench):
    code, out, err = gatebench(*words)
    assert code == 0, err
    assert out.strip()


def test_the_steps_of_a_regression_check_work(gatebench, tmp_path):
    """The block of the page, on a small plan: run, baseline, check, show, compare, verify."""
    page = (ROOT / "docs/regression.md").read_text(encoding="utf-8")
    steps = [line for line in blocks(page) if line.startswith("gatebench ")][:3]
    assert [step.split()[1] for step in steps] == ["run", "baseline", "check"]
    (tmp_path / "plan.toml").rename(tmp_path / "my-plan.toml")
    for step in steps:
        words = shlex.split(step.partition(" #")[0])[1:]
        extra = ["--in-process"] if words[0] in ("run", "check") else []
        extra += ["--no-report"] if words[0] == "run" else []
        code, _, err = gatebench(*words, *extra)
        assert code == 0, err
    for words in (["show", "now"], ["compare", "now", "now"], ["verify", "now"]):
        code, out, err = gatebench(*words)
        assert code == 0, err
        assert out.strip()


class _Began(Exception):
    """Stands for the training itself."""


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_what_a_card_says_trains_again(card, gatebench, monkeypatch):
    """On a fresh installation the command comes as far as the first step, or says which data it
    needs; its settings are those of the card's weights."""
    from bench import weights
    from bench.training import loop

    lines = [one for one in blocks(card.read_text(encoding="utf-8")) if "gatebench train" in one]
    entry = weights.entries()[card.stem]
    if not lines:
        assert "training" not in entry.more
        return
    words = shlex.split(lines[-1])[1:]
    began = []

    def train(plan, *ignored, **others):
        began.append(plan)
        raise _Began

    monkeypatch.setattr(loop, "train", train)
    if len(lines) == 2:  # what it starts from does not come along, and is trained first
        assert gatebench(*shlex.split(lines[0])[1:])[0] == (1 if entry.dataset == "digits-m" else 3)
        if began:
            (first,) = began
            name = f"{first.stage.weights_name(first.stage_name)}@{first.dataset}"
            assert name == entry.more["started_from"]
        return
    code, _, err = gatebench(*words)
    assert "Usage" not in err
    if entry.dataset == "digits-m":
        assert code == 1
        (plan,) = began
        then, now = entry.more["training"], plan.document()
        later = {"rows", "temperature"} - then.keys()  # settings that came after some records
        told = now.keys() - {"precision"} - later
        assert {key: then[key] for key in told} == {key: now[key] for key in told}
    else:
        assert code == 3, err
        assert "--data-root" in err or "cifar" in err or "imagen" in err


EXTRAS = set(
    tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_is_installed_is_there(page):
    text = page.read_text(encoding="utf-8")
    for extras in re.findall(r"pip install [^\n`]*?\[([a-z,]+)\]", text):
        assert set(extras.split(",")) <= EXTRAS
    for name in re.findall(r"pip install (?:-e )?['\"]?gatebench(?![-\w\[])[^\n`]*", text):
        assert "@" in name, "gatebench is on no index: name a wheel, a folder or an address"


def test_every_command_is_shown_somewhere():
    shown = {words[0] for words, _ in ALL if words}
    assert set(COMMANDS) - shown <= {"compare", "export", "transfer"}, "in the reference alone"
