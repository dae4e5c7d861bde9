from pathlib import Path

from bench.files.home import data_home, home, weights_home


def test_own_variable_wins(monkeypatch, tmp_path):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path / "g"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "x"))
    assert home() == tmp_path / "g"
    assert data_home() == tmp_path / "g" / "data"
    assert weights_home() == tmp_path / "g" / "weights"


def test_xdg_counts_only_if_absolute(monkeypatch, tmp_path):
    monkeypatch.delenv("GATEBENCH_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert home() == tmp_path / "gatebench"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert home() == Path.home() / ".local" / "share" / "gatebench"
