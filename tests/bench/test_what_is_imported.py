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
RUN = ("run", "plan.toml", "--name", "a", "--in-process", "--no-report", "--device", "cpu")
OF_A_RUN = {
    ("show", "a"): LOOKS,
    ("compare", "a", "a"): LOOKS,
    ("baseline", "a", "--out", "baseline.json"): LOOKS,
    ("report", "a"): LOOKS | {"PIL", "jinja2", "vl_convert"},
    ("report", "a", "--full", "--out", "full"): LOOKS | {"PIL", "jinja2", "vl_convert"},
}


def imported(arguments, folder, environment):
    """The libraries among `HEAVY` that a process of this command holds at its end."""
    code = (
        f"heavy = {sorted(HEAVY)}\nimport sys\nfrom bench.cli import main\ntry:\n"
        "    main(sys.argv[1:])\nfinally:\n"
        "    print('HEAVY', *sorted(set(sys.modules) & set(heavy)), file=sys.stderr)"
    )
    environment.pop("PYTHONPATH")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    word, *found = done.stderr.splitlines()[-1].split()
    assert word == "HEAVY"
    return set(found)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, child_environment):
    """(A folder with a run named a, what the command imported that made it)."""
    folder = tmp_path_factory.mktemp("imports")
    (folder / "plan.toml").write_text(PLAN)
    return folder, imported(RUN, folder, child_environment())


@pytest.mark.parametrize("arguments", WITHOUT_A_RUN, ids=lambda arguments: "-".join(arguments[:3]))
def test_a_command_imports_what_it_needs(arguments, tmp_path, child_environment):
    (tmp_path / "plan.toml").write_text(PLAN)
    unasked = imported(arguments, tmp_path, child_environment()) - WITHOUT_A_RUN[arguments]
    assert not unasked, {name: HEAVY[name] for name in unasked}


def test_a_run_without_a_report_imports_what_it_computes_with(ran):
    unasked = ran[1] - COMPUTES
    assert not unasked, {name: HEAVY[name] for name in unasked}


WHOLE = pytest.mark.slow  # renders every page


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(one, id="-".join(one[:3]), marks=WHOLE if "--full" in one else ())
        for one in OF_A_RUN
    ],
)
def test_a_command_about_a_run_imports_what_it_needs(arguments, ran, child_environment):
    unasked = imported(arguments, ran[0], child_environment()) - OF_A_RUN[arguments]
    assert not unasked, {name: HEAVY[name] for name in unasked}
