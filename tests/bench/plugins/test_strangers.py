"""Entry points that lead to something else than what their group says: named, not a traceback."""

import pytest

from bench.plugins import registry

POINTS = """[gatebench.datasets]
loads = json:loads
raises = strange:Raises
[gatebench.executors]
printer = builtins:print
"""
MODULE = """
from bench.api import Dataset

class Raises(Dataset):
    splits = ("test",)
    image_shape = (3, 8, 8)
    def __init__(self, split, data_root=None):
        raise RuntimeError("no such thing")
    def pixels(self, indices):
        return None
"""
CASES = {
    "no data set": ('"toy-pixels:test"', '"loads:test"', "no bench.api.Dataset"),
    "a data set that raises": (
        '"toy-pixels:test"',
        '"raises:test"',
        "data set 'raises' cannot be opened: RuntimeError: no such thing",
    ),
    "no executor": (
        'device = "cpu"',
        'device = "cpu"\nexecutor = "printer"',
        "executor 'printer' cannot be made: TypeError",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_an_entry_point_leads_to_is_looked_at(gatebench, tmp_path, monkeypatch, case):
    before, after, said = CASES[case]
    info = tmp_path / "site" / "strange-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    (info.parent / "strange.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(info.parent))
    registry.providers.cache_clear()
    plan = (tmp_path / "plan.toml").read_text()
    (tmp_path / "plan.toml").write_text(plan.replace(before, after))
    code, _, err = gatebench("run", "plan.toml", "--name", "r", "--no-report")
    assert code == 7
    assert said in err
    assert "Traceback" not in err
    registry.providers.cache_clear()


def test_damaged_metadata_are_named_and_hide_nothing_else(tmp_path, monkeypatch):
    from bench.cli.doctor import _plugins

    info = tmp_path / "site" / "torn-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torn\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gatebench.attacks]\nno sign of equality\n")
    monkeypatch.syspath_prepend(str(info.parent))
    monkeypatch.setattr("bench.cli.doctor._import_problems", lambda found: [None] * len(found))
    registry.providers.cache_clear()
    try:
        assert registry.unreadable() == ["torn"]
        assert {"pry", "gradauto"} <= set(registry.names("attack"))
        (told,) = [check for check in _plugins() if check.state == "bad"]
        assert told.name == "torn"
        assert "install it again" in told.detail
    finally:
        registry.providers.cache_clear()
