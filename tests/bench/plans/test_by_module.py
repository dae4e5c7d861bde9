"""MODULE:CLASS in a plan: a plugin that is not installed."""

import sys

import pytest

from bench.plugins import registry
from bench.store.provenance import source_digest

MODULE = '''
from dataclasses import dataclass
from pathlib import Path

from bench.api import Attack

Path("imported").write_text("")


@dataclass(frozen=True, kw_only=True)
class Mine(Attack):
    """Returns the images, a little brighter."""

    by: float = 0.0

    def perturb(self, view, images, labels, job):
        return (images + self.by).clamp(0, 1)


class Other:
    """No attack."""
'''


@pytest.fixture
def own(gatebench, tmp_path, monkeypatch):
    """Run a command on a plan whose second attack is written as `use`."""
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", ".")])
    (tmp_path / "my_attacks_of_a_test.py").write_text(MODULE)
    plan = (tmp_path / "plan.toml").read_text()

    def call(use, *command):
        (tmp_path / "plan.toml").write_text(plan.replace('use = "wander"', use))
        return gatebench(*command)

    yield call
    sys.modules.pop("my_attacks_of_a_test", None)


def test_a_class_of_the_working_folder_runs(own, tmp_path):
    use = 'use = "my_attacks_of_a_test:Mine"\nparams = { by = 0.01 }'
    code, out, err = own(use, "plan", "plan.toml")
    assert code == 0, err
    assert "my_attacks_of_a_test:Mine by=0.01" in out
    assert not (tmp_path / "imported").exists(), "looking imports nothing"
    code, out, err = own(use, "run", "plan.toml", "--name", "r", "--in-process", "--no-report")
    assert code == 0, err
    assert "my_attacks_of_a_test:Mine by=0.01" in out
    code, out, _ = own(use, "show", "r")
    assert code == 0


def test_the_source_of_a_class_of_the_working_folder_is_known_to_every_command(
    tmp_path, monkeypatch
):
    """`verify` compares sources before anything is made; it said that other code is here."""
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", ".")])
    monkeypatch.setattr(registry, "_added", [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_attacks_of_a_test.py").write_text(MODULE)
    source_digest.cache_clear()
    assert source_digest("my_attacks_of_a_test:Mine") != "unknown"
    source_digest.cache_clear()


@pytest.mark.parametrize(
    ("use", "said"),
    [
        pytest.param("my_attacks_of_a_test:Other", "does not derive from bench.api.Attack", id="no-attack"),
        pytest.param("my_attacks_of_a_test:Nothing", "there is no class 'Nothing'", id="no-class"),
        pytest.param("json:loads", "there is no class 'loads' in the source of module 'json'", id="a-function"),
        pytest.param("attacks:Mine", "module 'attacks', which is ", id="a-file-behind-another"),
        pytest.param("my_attacks_of_a_test.py:Mine", 'is "my_attacks_of_a_test:Mine"', id="a-file"),
        pytest.param("./sub/mine.py:Mine", 'is "mine:Mine"', id="a-path"),
        pytest.param("os:system", "unknown attack 'os'", id="a-module-without-a-source"),
        pytest.param("gradato:RM", "unknown attack 'gradato'; did you mean 'gradauto'?", id="preset-of-a-typo"),
        pytest.param("my_attacks_of_a_test:Mine\\\", x", "unknown attack", id="no-identifier"),
    ],
)  # fmt: skip
def test_nothing_else_is_imported(use, said, own, tmp_path):
    code, _, err = own(f'use = "{use}"', "plan", "plan.toml")
    assert code in (2, 7)
    assert said in err
    assert not (tmp_path / "imported").exists()
