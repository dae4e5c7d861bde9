"""What the README shows is what is there."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "examples/gatebench-example/src/gatebench_example"


@pytest.mark.parametrize("name", ["two_exits", "margin_sign"])
def test_example_code_is_quoted_word_for_word(name):
    assert (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").rstrip() in README


def test_the_plan_in_the_readme_is_valid(tmp_path):
    from bench.plans.resolve import load_plan

    text = README.split("```toml\n")[1].split("```")[0]
    tomllib.loads(text)
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8")
    plan = load_plan(path)
    assert len(plan.cells) == 4


def test_every_command_is_mentioned():
    from bench.cli import COMMANDS

    missing = [name for name in COMMANDS if f"gatebench {name}" not in README]
    assert missing == []


def test_every_picture_is_there():
    for line in README.splitlines():
        if line.startswith("!["):
            assert (ROOT / line.rpartition("(")[2].rstrip(")")).is_file()
