import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from click.testing import CliRunner

import bench
from bench import weights
from bench.cli import doctor as module
from bench.cli.doctor import dependency, diagnose, doctor, locate
from bench.plugins import registry

HOME = Path(bench.__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def healthy(tmp_path, monkeypatch):
    """An empty home and only those plugins that the test adds."""
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path / "home"))
    rows = {}
    monkeypatch.setattr(registry, "providers", lambda kind: rows.get(kind, ()))
    return rows


def states(group):
    return {check.name: check.state for check in diagnose() if check.group == group}


def test_this_environment_is_well():
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 0, result.output
    assert "all well" in result.output
    assert set(states("packages").values()) == {"ok"}
    assert {"torch", "ptflops", "pyarrow"} <= states("dependencies").keys()
    assert "pytest" not in states("dependencies"), "extras are nobody's dependency"


def test_a_broken_plugin_is_a_line_and_exit_code_7(healthy):
    healthy["attack"] = (registry.Provider("attack", "broken", "nowhere:Attack", "somebody"),)
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 7
    assert "No module named 'nowhere'" in result.output
    assert "1 bad" in result.output


def test_a_name_taken_by_another_distribution(tmp_path, monkeypatch):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "__init__.py").write_text("")
    assert locate("bench", HOME).state == "ok"
    check = locate("bench", tmp_path)
    assert check.state == "bad"
    assert "another distribution took the name" in check.detail
    assert locate("no_such_package_here", HOME).state == "bad"


@pytest.mark.parametrize(
    ("name", "bounds", "state"),
    [
        ("numpy", ">=1", "ok"),
        ("numpy", ">=99", "bad"),
        ("numpy", "", "ok"),
        ("no-such-distribution", ">=1", "bad"),
    ],
)
def test_bounds(name, bounds, state):
    assert dependency(name, bounds).state == state


def test_damaged_weights_are_bad(tmp_path):
    import torch

    entry = weights.add_entry(
        tmp_path / "home" / "weights", "a", {"w": torch.ones(2)}, {"target": "t"}
    )
    assert states("weights") == {"own": "ok"}
    entry.path.write_bytes(b"")
    assert states("weights") == {"own": "ok", "a": "bad"}


def test_little_space_is_worth_a_note(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(1e8))
    assert states("folders")["space here"] == "note"


def test_it_survives_its_patients(monkeypatch):
    def fall():
        raise ZeroDivisionError("oh")
        yield

    monkeypatch.setattr(module, "_folders", fall)
    assert states("folders") == {"examination": "bad"}
