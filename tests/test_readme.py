"""What the README shows is what is there."""

import re
import tomllib
from pathlib import Path

import pytest

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


ROW = re.compile(
    r"(\d|–)  (?P<attack>\S+).*? (?P<recovery>[\d.]+) % \[.*\]  (?P<macs>[\d.]+) MMAC +"
    r"(?P<left>[\d.]+) %"
)


def test_the_table_is_of_the_quickstart_and_adds_up():
    from bench.plans.resolve import load_plan

    plan = load_plan("quickstart", only=["skipnet-20-budget"])
    (said, table) = re.search(
        r"by `gatebench run quickstart --only skipnet-20-budget` \((.*?)\):\n\n```text\n(.*?)```",
        README,
        re.DOTALL,
    ).groups()
    (images,) = {cell.protocol.images for cell in plan.cells}
    assert said.startswith(f"{images} images;")
    head, _, *lines = table.splitlines()
    clean, ceiling, saves = map(float, re.findall(r"([\d.]+) (?:MMAC|%)", head)[:3])
    assert saves == pytest.approx(100 * (1 - clean / ceiling), abs=0.06)
    rows = [found for found in map(ROW.match, lines) if found]
    labels = {cell.attack.label for cell in plan.cells}
    shown = {label.split()[0] for label in labels}
    assert {row["attack"] for row in rows} == shown - {"noise", "contrast", "photometric"}
    for row in rows:
        macs = float(row["macs"])
        won = 100 * (macs - clean) / (ceiling - clean)
        assert float(row["recovery"]) == pytest.approx(won, abs=0.1)
        assert float(row["left"]) == pytest.approx(100 * (1 - macs / ceiling), abs=0.06)


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
