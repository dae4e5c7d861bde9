"""What each command may import: a library that is not used costs every process its seconds."""

import subprocess
import sys

import pytest

HEAVY = {
    "torch": "tensors",
    "torch._dynamo": "torch's compiler",
    "torch._inductor": "torch's compiler",
    "torchvision": "downloads of CIFAR, image folders",
    "timm": "backbones by name, ImageNet's transforms",
    "ptflops": "the counter of MACs",
    "torchmetrics": "an oracle of tests",
    "scipy": "an oracle of tests",
    "sympy": "torch's compiler",
    "sklearn": "making digits-m",
    "numpy": "arrays",
    "pyarrow": "rows of shards",
    "pydantic": "plans",
    "safetensors": "weights",
    "PIL": "pictures",
    "altair": "an oracle of tests",
    "vl_convert": "the script of charts, and still pictures of them",
    "jinja2": "pages",
}

COMPUTES = {"torch", "ptflops", "numpy", "pyarrow", "pydantic", "safetensors", "PIL"}
"""What a worker needs to open a cell, run it and write its rows."""

PLAN = """
schema = 1
[protocol]
dataset = "digits-m:test"
images = 2
batch = 2
threat = { norm = "psnr", floor = 35 }
budget = 8
[[target]]
use = "skipnet"
params = { depth = 8 }
weights = "random:0"
[[attack]]
use = "gradauto"
"""

LOOKS = {"numpy", "pyarrow", "pydantic"}
"""What a board is read with."""

WITHOUT_A_RUN = {
    ("plan", "plan.toml"): {"pydantic"},
    ("list", "targets", "skipnet"): {"pydantic"},
    ("list", "weights"): {"pydantic"},
    ("weights", "list"): {"pydantic"},
    ("cite",): {"pydantic"},
}
"""Each may import what those before it may: one process runs them one after another."""
RUN = ("run", "plan.toml", "--name", "a", "--in-process", "--no-report", "--device", "cpu")
OF_A_RUN = {
    ("show", "a"): LOOKS,
    ("compare", "a", "a"): LOOKS,
    ("baseline", "a", "--out", "baseline.json"): LOOKS,
    ("report", "a"): LOOKS | {"PIL", "jinja2", "vl_convert"},
}
"""Each may import what those before it may."""
WHOLE = {("report", "a", "--full", "--out", "full"): LOOKS | {"PIL", "jinja2", "vl_convert"}}


def imported(commands, folder, environment):
    """(Command, the libraries among `HEAVY` that one process held after it) of commands that the
    process runs one after another."""
    code = (
        f"heavy, commands = {sorted(HEAVY)}, {list(commands)}\n"
        "import sys\nfrom bench.cli import main\n"
        "for command in commands:\n"
        "    try:\n        main(list(command))\n"
        "    except SystemExit as end:\n        assert not end.code, (command, end.code)\n"
        "    print('HEAVY', *sorted(set(sys.modules) & set(heavy)), file=sys.stderr)"
    )
    environment.pop("PYTHONPATH")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said = [line.split()[1:] for line in done.stderr.splitlines() if line.startswith("HEAVY")]
    return [(command, set(found)) for command, found in zip(commands, said, strict=True)]


def check_imports(allowed, folder, environment):
    """Fail where a command imports what it has no use for, and say which and what."""
    for command, found in imported(allowed, folder, environment):
        unasked = found - allowed[command]
        assert not unasked, (command, {name: HEAVY[name] for name in unasked})


@pytest.fixture(scope="module")
def ran(tmp_path_factory, child_environment):
    """(A folder with a run named a, what the command imported that made it)."""
    folder = tmp_path_factory.mktemp("imports")
    (folder / "plan.toml").write_text(PLAN)
    ((_, found),) = imported([RUN], folder, child_environment())
    return folder, found


def test_commands_import_what_they_need(tmp_path, child_environment):
    (tmp_path / "plan.toml").write_text(PLAN)
    check_imports(WITHOUT_A_RUN, tmp_path, child_environment())


def test_a_run_without_a_report_imports_what_it_computes_with(ran):
    unasked = ran[1] - COMPUTES
    assert not unasked, {name: HEAVY[name] for name in unasked}


@pytest.mark.slow  # a new interpreter for each of several commands
def test_commands_about_a_run_import_what_they_need(ran, child_environment):
    check_imports(OF_A_RUN, ran[0], child_environment())


@pytest.mark.slow  # renders every page
def test_a_full_report_imports_what_it_needs(ran, child_environment):
    check_imports(WHOLE, ran[0], child_environment())
