"""A user's settings: whatever stands there, a value or a mistake with its place."""

from pathlib import Path

import pytest

from bench.errors import PlanError
from bench.files.settings import settings


@pytest.fixture
def config(monkeypatch, tmp_path):
    for name in ("GATEBENCH_OUT", "GATEBENCH_DATA_ROOT", "GATEBENCH_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path))
    return tmp_path / "config.toml"


@pytest.mark.parametrize("name", ["GATEBENCH_OUT", "GATEBENCH_DATA_ROOT"], ids=["out", "data"])
def test_the_home_of_an_unknown_user_is_a_folder_here(config, monkeypatch, name):
    """As in a shell: what cannot be expanded stays as it is."""
    monkeypatch.setenv(name, "~nobody-of-that-name/x")
    found = settings()
    place = found.out if name == "GATEBENCH_OUT" else found.data_root
    assert place == Path("~nobody-of-that-name/x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(b"out = 3", "out is a text in quotes, got 3", id="number"),
        pytest.param(b'out = "a\\u0000b"', "out is a text in quotes", id="null-byte"),
        pytest.param(b'oot = "x"', "did you mean 'out'", id="typo"),
        pytest.param(b"[out]\nx = 1", "out is a text in quotes", id="table"),
        pytest.param(b"\xff", "cannot be read", id="no-text"),
        pytest.param(b"a = " + b"[" * 5000, "cannot be read", id="deep"),
        pytest.param(b'device = "cpu"\ndevice = "cuda"', "cannot be read", id="twice"),
    ],
)
def test_mistakes_have_a_place(config, text, said):
    config.write_bytes(text)
    with pytest.raises(PlanError, match=said):
        settings()
