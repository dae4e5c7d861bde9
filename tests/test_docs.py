"""What the documents show works: their code, their plans, the commands, flags and files they name."""

import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    [path for path in DOCS.rglob("*.md") if not path.is_relative_to(DOCS / "results")]
    + [DOCS / "results/README.md"]
)
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
GENERATED = ("cli", "plan", "plugins")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def read(name):
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text, language):
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [
        "".join(line.removeprefix(indent) for line in block.splitlines(keepends=True))
        for indent, block in found
    ]


@pytest.fixture
def as_module(monkeypatch):
    """Runs code as a reader's module would, so that dataclasses and pickles find it."""

    def run(code, name="documented"):
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(code, f"<{name}>", "exec"), module.__dict__)
        return module

    return run


# Pages that are generated


@pytest.mark.parametrize("name", GENERATED)
def test_generated_pages_are_up_to_date(name, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "generate"))
    spec = importlib.util.spec_from_file_location(
        f"docs_generate_{name}", DOCS / "generate" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stale = module.render() != read(f"reference/{name}.md")
    assert not stale, f"docs/reference/{name}.md is stale: run 'make reference'"


def test_every_key_of_a_plan_is_explained():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", read("reference/plan.md"), re.MULTILINE)
    assert len(rows) > 35
    assert [key for key, meaning in rows if not meaning.strip()] == []


def test_every_command_has_a_section():
    from bench.cli import COMMANDS

    missing = [
        name for name in COMMANDS if f"\n## gatebench {name}\n" not in read("reference/cli.md")
    ]
    assert missing == []


# Links


def anchors(path):
    """The anchors that the site and common hosts give to the headings of a page."""
    found = set()
    for line in re.sub(
        r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL
    ).splitlines():
        if match := re.match(r"#+ (.*?)(?:\s*\{:? *#([\w-]+) *\})?$", line):
            plain = re.sub(r"[^\w\- ]", "", match[1].lower()).strip()
            found |= {re.sub(r"[ -]+", "-", plain), match[2] or ""}
    return found


def links(path):
    text = re.sub(r"```.*?```|`[^`]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


@pytest.mark.parametrize("path", [*FRONT, *PAGES], ids=name_of)
def test_links_lead_somewhere(path):
    for link in links(path):
        file, _, anchor = link.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), link
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), link


def test_the_links_are_looked_at():
    assert sum(len(links(path)) for path in [*FRONT, *PAGES]) > 100
    assert "what-the-flags-mean" in anchors(DOCS / "defenses.md")
    assert "nothing-like-that" not in anchors(DOCS / "defenses.md")


@pytest.mark.parametrize(
    "path", [path for path in [*FRONT, *PAGES] if path.stem != "CHANGELOG"], ids=name_of
)
def test_files_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(
        r"`((?:bench|attacks|targets|reports|tests|docs|examples)/[\w./-]*)`", text
    ):
        assert (ROOT / name).exists(), name


OURS = re.compile(r"forward-equivalent|recovery|ceiling|\bshards?\b", re.IGNORECASE)
"""Words of gatebench's own, which the glossary explains."""


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_pages_that_use_words_of_ours_lead_to_the_glossary(path):
    generated = path.parent.name in ("reference", "api", "cards") and path.name != "README.md"
    text = re.sub(
        r"```.*?```|`[^`\n]*`|^\|.*?$",
        "",
        path.read_text(encoding="utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )
    if not generated and path.name != "glossary.md" and OURS.search(text):
        assert "glossary.md" in text


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"[\w/-]+\.md", text.split("\nnav:")[1])
    nav = set(named)
    assert len(named) == len(nav)
    pages = {path.relative_to(DOCS).as_posix() for path in PAGES}
    assert pages - nav == {page for page in pages if page.startswith("cards/") and "@" in page}
    assert nav <= pages


# Guides


@pytest.mark.parametrize("name", ["target", "attack"])
def test_examples_are_quoted_word_for_word_and_keep_their_contract(name, as_module):
    file = {"target": "two_exits", "attack": "margin_sign"}[name]
    source = ROOT / "examples/gatebench-example/src/gatebench_example" / f"{file}.py"
    code, check = blocks(read(f"guides/{name}.md"), "python")
    assert code.rstrip() == source.read_text(encoding="utf-8").rstrip()
    as_module(f"{code}\n\n{check}")


def test_the_defense_in_the_documents_is_one():
    from bench.evaluation.outputs import freeze
    from bench.testing import ToyTarget, check_target, problems, sample_images

    (code,) = blocks(read("defenses.md"), "python")
    space: dict = {}
    exec(code, space)  # as a reader would type it
    toy = ToyTarget()
    target = space["Dim"](factor=0.5).wrap(toy)
    freeze(target)
    assert not problems(check_target(target))
    with torch.no_grad():
        assert torch.equal(
            target(sample_images((3, 8, 8))).logits, toy(sample_images((3, 8, 8)) * 0.5).logits
        )


@pytest.mark.slow  # a program of its own, with a run
@pytest.mark.parametrize("number", [0, 1], ids=["evaluate", "run"])
def test_what_programs_are_told_to_write_runs(number, tmp_path, child_environment):
    code = blocks(read("python.md"), "python")[number].replace("count=32", "count=4, batch=4")
    (tmp_path / "program.py").write_text(f'{code}\nif __name__ == "__main__":\n    print(result)')
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "<Result skipnet-20-budget / gradauto: recovery " in done.stdout


def test_the_data_set_of_the_guide_is_one(as_module, tmp_path):
    from bench.errors import DataError

    (code,) = blocks(read("guides/dataset.md"), "python")
    stripes = as_module(code).Stripes
    with pytest.raises(DataError, match=r"cannot read test\.npz"):
        stripes("test", tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "test.npz", images=pictures, labels=np.arange(32) % 2)
    data = stripes("test", tmp_path)
    assert len(set(data.ids)) == len(data) == 32
    assert data.images([3]).shape == (1, 3, 16, 16)
    assert torch.equal(data.images([3])[0], torch.from_numpy(pictures[3]).permute(2, 0, 1))
    assert data.labels.tolist() == [0, 1] * 16


def test_the_recipe_of_the_guide_trains(as_module):
    from bench.api import Moment

    (code,) = blocks(read("guides/recipe.md"), "python")
    recipe = as_module(code).OpenRecipe
    stage = recipe.stages["open"](depth=8)
    torch.manual_seed(0)
    target = stage.build(10)
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    moment = Moment(0.0, torch.Generator().manual_seed(0))
    target.train()
    loss, shown = stage.loss(target, images, labels, moment)
    loss.backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in target.parameters())
    assert set(shown) == {"accuracy", "open"}
    assert stage.weights_name("open") == "skipnet-8-open"


def small_plan(folder, executor="local"):
    path = folder / "plan.toml"
    path.write_text(
        f"""
[protocol]
dataset = "digits-m:test"
images = 4
batch = 2
threat = {{ norm = "psnr", floor = 35 }}
budget = 10
[run]
shard = 2
device = "cpu"
executor = "{executor}"
[[target]]
use = "skipnet"
params = {{ depth = 8 }}
weights = "random:0"
[[attack]]
use = "identity"
"""
    )
    return path


@pytest.fixture
def small_run(tmp_path, as_module, monkeypatch):
    """A run of two shards, computed by the executor of the guide."""
    from bench.plans.resolve import load_plan
    from bench.plugins import registry
    from bench.runs.layout import lay_out
    from bench.runs.run import Run

    (code,) = blocks(read("guides/executor.md"), "python")
    executor = as_module(code, "documented_executor").OneByOne
    plain_load, plain_names = registry.load, registry.names
    monkeypatch.setattr(
        registry,
        "load",
        lambda kind, name: executor if name == "one-by-one" else plain_load(kind, name),
    )
    monkeypatch.setattr(
        registry,
        "names",
        lambda kind: plain_names(kind) + (["one-by-one"] if kind == "executor" else []),
    )
    laid = lay_out(
        load_plan(small_plan(tmp_path, "one-by-one")), tmp_path / "runs", "small", "", None
    )
    events = []
    outcome = Run(laid)(lambda *ignored: None, events.append)
    return laid.folder.path, outcome, events


def test_the_executor_of_the_guide_computes_a_run(small_run):
    _, outcome, events = small_run
    assert outcome.is_clean
    assert [event.what for event in events if event.what != "progress"] == ["started", "done"] * 2


def test_the_report_of_the_guide_renders_a_board(small_run, as_module, tmp_path):
    from bench.results.board import load_boards

    code, _ = blocks(read("guides/report.md"), "python")
    (board,) = load_boards(small_run[0])
    as_module(code).Names().render(board, tmp_path / "out")
    shown = (tmp_path / "out/names.txt").read_text(encoding="utf-8")
    assert re.fullmatch(r"skipnet.* / identity: (0\.0 %|-)\n", shown)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_toml_that_is_shown_is_valid(path):
    for text in blocks(path.read_text(encoding="utf-8"), "toml"):
        for point in tomllib.loads(text).get("project", {}).get("entry-points", {}):
            from bench.plugins.registry import GROUPS

            assert point in GROUPS.values()


def test_the_plan_of_defenses_is_valid(tmp_path):
    from bench.plans.resolve import load_plan

    plans = [text for text in blocks(read("defenses.md"), "toml") if "[[attack]]" in text]
    assert plans
    for text in plans:
        head = '[protocol]\ndataset = "digits-m:test"\nthreat = { norm = "psnr", floor = 35 }\n'
        head += '[[target]]\nuse = "skipnet"\nweights = "skipnet-20-budget@digits-m"\n'
        head += '[[defense]]\nuse = "monitor"\n'
        path = tmp_path / "plan.toml"
        path.write_text(head + text, encoding="utf-8")
        assert {cell.attack.label for cell in load_plan(path).cells} >= {"unaware", "autoenergy"}


# Names


def test_every_defense_and_every_flag_is_told():
    from bench.plugins import registry
    from reports.vocabulary import FLAGS

    text = read("defenses.md")
    for name in registry.names("defense"):
        assert f"`{name}`" in text, name
    told = set(re.findall(r"^\| `([a-z-]+)` \| ", text, re.MULTILINE))
    asked = {
        "zero-gradient",
        "misleading-gradient",
        "saturated-gates",
        "hard-masks",
        "randomised",
        "not-converged",
        "black-box-leads",
    }
    assert asked | {"transfer-leads", "shrinks-with-radius"} <= told
    assert told - set(registry.names("defense")) <= set(FLAGS)


def test_every_status_is_told():
    from bench.results.records import STATUSES

    told = set(re.findall(r"^\| `([a-z]+)` \| ", read("numbers.md"), re.MULTILINE))
    assert told == set(STATUSES)


def test_exit_codes_and_options_of_the_check_are_those_that_there_are():
    from bench.cli.check import check
    from bench.errors import EXIT_CODES
    from bench.regression.check import EFFECTS

    text = read("regression.md")
    for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE):
        assert int(code) in EXIT_CODES
    known = {option for parameter in check.params for option in parameter.opts}
    for line in text.splitlines():
        if "gatebench check " in line:
            assert set(re.findall(r"--[a-z-]+", line)) <= known, line
    for measure, effect in EFFECTS.items():
        assert re.search(rf"\| `{measure}` \| {100 * effect:g} point", text), measure


@pytest.mark.parametrize("path", [*FRONT, *PAGES], ids=name_of)
def test_commands_that_are_named_exist(path):
    from bench.cli import COMMANDS

    text = path.read_text(encoding="utf-8")
    for code in re.findall(r"`([^`\n]+)`", text) + "\n".join(blocks(text, "text")).splitlines():
        if match := re.match(r"(?:\$ )?gatebench ([a-z]+)\b", code):
            assert match[1] in COMMANDS, code


def test_everything_public_is_in_the_reference():
    pages = "\n".join(path.read_text() for path in (DOCS / "reference/api").glob("*.md"))
    shown = set(re.findall(r"^::: ([\w.]+)$", pages, re.MULTILINE))
    for module in ("bench.api", "bench.testing"):
        for name in importlib.import_module(module).__all__:
            value = getattr(importlib.import_module(module), name)
            home = getattr(value, "__module__", "")
            if isinstance(value, type) or home.startswith("bench"):
                assert f"{home}.{name}" in shown or home in shown, f"{module}.{name}"


def test_the_import_rule_is_the_one_that_is_enforced():
    enforced = re.search(
        r"ORDER = \((.*?)\n\)", (ROOT / "tests/bench/test_imports.py").read_text(), re.DOTALL
    )
    rule = " ".join("".join(re.findall(r'"(.*?)"', enforced[1])).split())
    (block,) = [text for text in blocks(read("architecture.md"), "text") if "files plugins" in text]
    assert " ".join(block.split()) == rule


# Numbers


def test_the_examples_of_statistics_come_out_as_they_say():
    text = read("statistics.md")
    ranks, check = blocks(text, "python")
    space: dict = {}
    exec(ranks, space)
    assert space["ranks"] == [1, 1, 3]
    assert space["plain"] == pytest.approx([0.25, 2 / 256, 2 / 256])
    assert space["adjusted"] == pytest.approx([0.25, 6 / 256, 6 / 256])
    rows = re.findall(r"^\| ([ABC]) \|(.*)\|$", text, re.MULTILINE)
    for (letter, row), wanted, values in zip(rows, "ABC", space["attacks"], strict=True):
        assert letter == wanted
        cells = [float(cell) for cell in row.split("|")]
        assert cells == pytest.approx([*values, values.mean()])
    exec(check, space)
    assert space["p"] == pytest.approx(10 / 512)
    assert space["alone"][0] == pytest.approx(0.0195, abs=5e-5)
    assert space["of_three"][0] == pytest.approx(0.0586, abs=5e-5)
    assert float(space["loss"].mean()) == pytest.approx(0.0219, abs=5e-5)


def test_wilson_is_as_the_page_says():
    from bench.results.stats import wilson

    low, high = wilson(20, 20)
    assert f"interval {low:.3f} to {high:g}" in read("statistics.md").replace("\n", " ")


# Versions


def test_hooks_use_the_pinned_ruff():
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r'"ruff==([^"]+)"', hooks)) == {pins["ruff"]}


def test_the_change_log_starts_with_what_is_unreleased():
    import bench

    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == "Unreleased"
    assert heads[1] == bench.__version__


def test_the_cards_are_as_long_as_the_zoo():
    manifest = tomllib.loads((ROOT / "targets/weights/manifest.toml").read_text())
    cards = {path.stem for path in (DOCS / "cards").glob("*@*.md")}
    assert cards == {name for name, value in manifest.items() if isinstance(value, dict)}
