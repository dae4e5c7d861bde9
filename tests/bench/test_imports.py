"""Imports run one way, the four packages lie in one folder, and looking never imports torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bench

HOME = Path(bench.__file__).resolve().parent.parent
PACKAGES = ("bench", "attacks", "targets", "reports")

ORDER = (
    "errors terminal < files plugins contracts codec < api image datasets weights store "
    "< plans training < evaluation results < testing executors regression analysis < runs "
    "< python verify submissions pytest_plugin < cli"
)
"""A room of bench may import from itself, from its own step and from those before it;
`docs/architecture.md` says why."""

STEPS = {room: step for step, rooms in enumerate(ORDER.split(" < ")) for room in rooms.split()}
STEPS |= {"": 0, "suites": 0, "__main__": max(STEPS.values())}


def sources(package):
    return sorted(path for path in (HOME / package).rglob("*.py"))


def module_of(path):
    parts = path.relative_to(HOME).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """(line, module) of every import in a file, those inside functions included; names are resolved
    to modules where they are some."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []  # what only type checkers read is never imported
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} imports relatively"
            for alias in node.names:
                inner = HOME.joinpath(*f"{node.module}.{alias.name}".split("."))
                is_module = inner.with_suffix(".py").is_file() or inner.is_dir()
                found.append(
                    (node.lineno, f"{node.module}.{alias.name}" if is_module else str(node.module))
                )
    return found


def room(module):
    """The folder or file on top of bench that a module lies in; "" for bench itself."""
    return module.removeprefix("bench").removeprefix(".").partition(".")[0]


def edges(package):
    return [
        (path, line, name)
        for path in sources(package)
        for line, name in imports(path)
        if name.partition(".")[0] in PACKAGES
    ]


def test_bench_never_imports_what_it_finds_through_the_registry():
    assert len(sources("bench")) > 30
    wrong = [
        f"{path}:{line} imports {name}"
        for path, line, name in edges("bench")
        if not name.startswith("bench")
    ]
    assert not wrong


def test_imports_inside_bench_run_one_way():
    wrong = [
        f"{path.relative_to(HOME)}:{line} imports {name}"
        for path, line, name in edges("bench")
        if name.startswith("bench") and STEPS[room(name)] > STEPS[room(module_of(path))]
    ]
    assert not wrong


PUBLIC = {"bench.api", "bench.image", "bench.codec", "bench.errors"}
"""What a plugin may import of bench."""

ALLOWED = {
    "attacks": PUBLIC,
    "targets": PUBLIC,
    "reports": PUBLIC
    | {
        "bench.results",
        "bench.regression",
        "bench.files",
        "bench.terminal",
        "bench.contracts.threat",
        "bench.contracts.report",
    },
}


def is_allowed(name, allowed):
    return any(name == each or name.startswith(f"{each}.") for each in allowed)


@pytest.mark.parametrize("package", ALLOWED)
def test_plugins_see_the_contracts_only(package):
    wrong = []
    for path, line, name in edges(package):
        if name.partition(".")[0] != package and not is_allowed(name, ALLOWED[package]):
            wrong.append(f"{path.relative_to(HOME)}:{line} imports {name}")
    assert not wrong


def test_the_walk_would_find_a_reverse_edge(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        "import attacks.ilfo\ndef f():\n    from bench.results import stats\n    from bench.api import Target\n"
    )
    assert imports(path) == [(1, "attacks.ilfo"), (3, "bench.results.stats"), (4, "bench.api")]
    assert (
        STEPS[room("bench.results.board")] > STEPS[room("bench.api")] > STEPS[room("bench.errors")]
    )


def test_the_four_packages_lie_in_one_folder():
    import attacks
    import reports
    import targets

    for package in (attacks, reports, targets):
        assert Path(package.__file__).resolve().parent.parent == HOME


HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "ptflops",
    "torchmetrics",
    "numpy",
    "pyarrow",
    "altair",
    "vl_convert",
    "jinja2",
    "safetensors",
    "PIL",
}


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--help"], id="help"),
        pytest.param(["--version"], id="version"),
        pytest.param(["run", "--help"], id="run-help"),
        pytest.param(["list", "targets"], id="list-targets"),
        pytest.param(["list", "targets", "skipnet"], id="list-targets-skipnet"),
        pytest.param(["list", "attacks"], id="list-attacks"),
        pytest.param(["list", "attacks", "gradauto"], id="list-attacks-gradauto"),
        pytest.param(["list", "datasets"], id="list-datasets"),
        pytest.param(["list", "datasets", "digits-m"], id="list-datasets-digits-m"),
        pytest.param(["list", "suites"], id="list-suites"),
        pytest.param(["list", "suites", "quickstart"], id="list-suites-quickstart"),
        pytest.param(["list", "weights"], id="list-weights"),
        pytest.param(["list", "recipes"], id="list-recipes"),
        pytest.param(["list", "recipes", "skipnet"], id="list-recipes-skipnet"),
        pytest.param(["list", "defenses"], id="list-defenses"),
        pytest.param(["plan", "plan.toml"], id="plan-plan-toml"),
    ],
)
def test_looking_imports_nothing_heavy(arguments, tmp_path, child_environment):
    (tmp_path / "plan.toml").write_text(
        '[protocol]\ndataset = "digits-m:test"\nthreat = "none"\n'
        '[[target]]\nuse = "skipnet"\nweights = "random:0"\n[[attack]]\nuse = "gradauto:code"\n'
    )
    code = (
        f"heavy = {sorted(HEAVY)}\nimport sys\nfrom bench.cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
        "    print('HEAVY', *sorted(set(sys.modules) & set(heavy)), file=sys.stderr)"
    )
    environment = child_environment()
    environment.pop("PYTHONPATH")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr.splitlines()[-1].split() == ["HEAVY"]


def test_python_dash_m_is_the_command(child_environment):
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--version"],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == f"gatebench, version {bench.__version__}"
    assert done.returncode == 0


def test_no_circle_among_modules():
    graph = {module_of(path): set() for path in sources("bench")}
    for path, _, name in edges("bench"):
        if name in graph and name != module_of(path):
            graph[module_of(path)].add(name)
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, " -> ".join([*open_[open_.index(module) :], module])
        if module in done:
            return
        open_.append(module)
        for following in sorted(graph[module]):
            visit(following)
        open_.pop()
        done.add(module)

    for module in sorted(graph):
        visit(module)


def test_what_lies_on_top_is_what_a_plugin_author_imports():
    top = {path.stem for path in (HOME / "bench").glob("*.py")}
    assert top == {
        "__init__",
        "__main__",
        "api",
        "image",
        "codec",
        "errors",
        "pytest_plugin",
        "terminal",
    }


def test_no_two_public_classes_share_a_name():
    places = {}
    for package in PACKAGES:
        for path in sources(package):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(module_of(path))
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}
