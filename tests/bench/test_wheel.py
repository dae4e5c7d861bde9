"""What a wheel holds: code, trained weights, templates, suites and pictures, and nothing else."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bench

HOME = Path(bench.__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if not (HOME / "pyproject.toml").is_file():
        pytest.skip("installed from a wheel: no sources to build from")
    for tool in ("build", "hatchling"):
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed")
    source = tmp_path_factory.mktemp("source")
    for name in ("bench", "attacks", "targets", "reports"):
        shutil.copytree(HOME / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HOME / name, source)
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_everything_that_is_needed_is_in_it(wheel):
    names = set(wheel.namelist())
    assert {
        "bench/api.py",
        "bench/cli/citations.bib",
        "bench/suites/quickstart.toml",
        "bench/suites/digits-m.toml",
        "bench/suites/gradauto-table1.toml",
        "reports/published/gradauto.toml",
        "bench/datasets/digits_m.npz.xz",
        "targets/weights/manifest.toml",
        "reports/html/templates/board.html",
        "reports/html/templates/page.js",
        "reports/html/templates/style.css",
        "attacks/gradauto.py",
    } <= names
    weights = {name for name in names if name.endswith(".safetensors")}
    assert weights == {
        f"targets/weights/{path.name}"
        for path in (HOME / "targets" / "weights").glob("*.safetensors")
    }
    assert weights


def test_every_source_and_data_file_is_in_it_byte_for_byte(wheel):
    for package in ("bench", "attacks", "targets", "reports"):
        for path in (HOME / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert wheel.read(path.relative_to(HOME).as_posix()) == path.read_bytes(), path


def test_nothing_else_is_in_it(wheel):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {
        "bench",
        "attacks",
        "targets",
        "reports",
        f"gatebench-{bench.__version__}.dist-info",
    }
    assert not [name for name in wheel.namelist() if name.endswith((".pyc", ".part"))]


def test_its_weights_are_those_of_the_manifest(wheel):
    import hashlib
    import tomllib

    manifest = tomllib.loads(wheel.read("targets/weights/manifest.toml").decode())
    text = str(manifest)
    for name in wheel.namelist():
        if name.endswith(".safetensors"):
            assert hashlib.sha256(wheel.read(name)).hexdigest() in text, name


def test_the_command_and_the_entry_points_are_declared(wheel):
    points = wheel.read(f"gatebench-{bench.__version__}.dist-info/entry_points.txt").decode()
    assert "gatebench = bench.cli:main" in points
    for group in (
        "targets",
        "attacks",
        "datasets",
        "recipes",
        "weights",
        "suites",
        "reports",
        "executors",
    ):
        assert f"[gatebench.{group}]" in points
