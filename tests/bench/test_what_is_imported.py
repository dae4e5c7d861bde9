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
    "altair": "charts",
    "vl_convert": "still pictures of charts",
    "jinja2": "pages",
}

COMPUTES = {"torch", "ptflops", "numpy", "pyarrow", "pydantic", "safetensors", "PIL"}
"""What a worker needs to open a cell, run it and write its rows."""
SHOWS = {"altair", "jinja2"}
"""What the table in the terminal shares with the pages."""

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

MAY = {
    ("run", "plan.toml", "--name", "a", "--in-process", "--no-report", "--device", "cpu"): COMPUTES
    | SHOWS,
    ("plan", "plan.toml"): {"pydantic"},
    ("list", "targets", "skipnet"): {"pydantic"},
    ("list", "weights"): {"pydantic"},
    ("weights", "list"): {"pydantic"},
    ("cite",): {"pydantic"},
}


@pytest.mark.parametrize("arguments", MAY, ids=lambda arguments: "-".join(arguments[:3]))
def test_a_command_imports_what_it_needs(arguments, tmp_path, child_environment):
    (tmp_path / "plan.toml").write_text(PLAN)
    code = (
        f"heavy = {sorted(HEAVY)}\nimport sys\nfrom bench.cli import main\ntry:\n"
        "    main(sys.argv[1:])\nfinally:\n"
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
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    word, *found = done.stderr.splitlines()[-1].split()
    assert word == "HEAVY"
    unasked = set(found) - MAY[arguments]
    assert not unasked, {name: HEAVY[name] for name in unasked}
