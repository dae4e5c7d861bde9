"""Two workers that collect at different times, with different hash seeds, collect the same tests, and
every case has a name that does not depend on its place."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def collected(folder, hash_seed, ahead):
    """The ids of all tests, in order, as a process collects them whose clock is put forward."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "shaken"),
            *("--clock", str(ahead), "-p", "no:cacheprovider", str(folder)),
        ],
        cwd=HERE.parent,
        env={
            **os.environ,
            "PYTHONHASHSEED": str(hash_seed),
            "PYTHONPATH": os.pathsep.join([str(HERE / "support"), str(HERE.parent)]),
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return [line for line in run.stdout.splitlines() if "::" in line]


@pytest.mark.slow  # collects every test twice
def test_every_test_has_one_name_at_any_time_and_hash_seed():
    first, second = collected(HERE, 1, 0), collected(HERE, 2, 86_461)
    assert len(first) > 1000
    assert len(set(first)) == len(first)
    assert first == second


def test_a_name_that_holds_the_time_or_a_hash_is_found(tmp_path):
    """The comparison would see it."""
    (tmp_path / "test_bad.py").write_text(
        "import gzip\nimport pytest\n"
        "@pytest.mark.parametrize('data', [gzip.compress(b'x')])\n"
        "def test_time(data):\n    pass\n"
        "@pytest.mark.parametrize('word', {'a', 'b', 'c', 'd', 'e', 'f'})\n"
        "def test_hash(word):\n    pass\n"
    )
    first, second = collected(tmp_path, 1, 0), collected(tmp_path, 2, 86_461)
    assert len(first) == len(second) == 7
    assert [one for one in first if "time" in one] != [one for one in second if "time" in one]
    assert [one for one in first if "hash" in one] != [one for one in second if "hash" in one]


CASES = """import pytest
from functools import partial
@pytest.mark.parametrize(("a", "b"), [({a}, 1)])
def test_case(a, b):
    pass
"""


NAMED = {
    "text": "'text'", "none": "None", "number": "1.5", "class": "dict", "function": "sorted",
}  # fmt: skip
NAMELESS = {
    "table": "{}", "list": "[1]", "tuple": "(1, 2)", "lambda": "lambda: 1",
    "object": "partial(sorted)",
}  # fmt: skip


def test_a_case_that_would_be_named_by_its_place_is_refused(tmp_path):
    for name, value in (NAMED | NAMELESS).items():
        (tmp_path / f"test_{name}.py").write_text(CASES.replace("{a}", value))
        (tmp_path / f"test_{name}_by_hand.py").write_text(
            CASES.replace("({a}, 1)", f'pytest.param({value}, 1, id="one")')
        )
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "named_cases"),
            *("-p", "no:cacheprovider", "."),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE / "support")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode != 0
    for name in NAMED | NAMELESS:
        assert f"test_{name}_by_hand.py::test_case[one]" in run.stdout
        assert (f"test_{name}.py::test_case" in run.stdout) == (name in NAMED)
        assert (f"ERROR test_{name}.py" in run.stdout) == (name in NAMELESS)
    said = re.findall(r"^(\w+) = .* has no name", run.stdout, re.MULTILINE)
    assert said == ["a"] * len(NAMELESS)
