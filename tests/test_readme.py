"""What the README shows is what is there."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "examples/gatebench-example/src/gatebench_example"


def test_it_is_short():
    assert len(README.splitlines()) <= 130


def test_the_plugin_is_quoted_word_for_word():
    assert (EXAMPLES / "margin_sign.py").read_text(encoding="utf-8").rstrip() in README


def test_the_plan_in_the_readme_is_valid(tmp_path):
    from bench.plans.resolve import load_plan

    text = README.split("```toml\n")[1].split("```")[0]
    tomllib.loads(text)
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8")
    plan = load_plan(path)
    assert len(plan.cells) == 4


def test_the_make_targets_that_are_named_exist():
    targets = {
        line.partition(":")[0]
        for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
        if line[:1].isalpha() and ":" in line
    }
    for name in ("README.md", "CONTRIBUTING.md", "docs/index.md", ".github/workflows/ci.yml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        named = {
            line.split("make ", 1)[1].split()[0].strip("`,;:.")
            for line in text.splitlines()
            if line.lstrip(" $-`run:").startswith("make ")
        }
        assert named <= targets, name
