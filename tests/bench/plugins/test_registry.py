"""Entry points: found without importing, told apart, and broken ones are rows."""

import sys
import zipfile
from types import SimpleNamespace

import pytest

from bench.errors import PluginError, UnknownName
from bench.plugins import registry
from bench.plugins.sources import source_file
from bench.store.provenance import source_digest

pytestmark = pytest.mark.usefixtures("plugins")


def test_built_ins_and_plugins_come_the_same_way():
    assert {"gradauto", "ilfo", "identity", "wander", "mischief"} <= set(registry.names("attack"))
    assert registry.find("attack", "wander").distribution == "mischief"
    assert registry.find("attack", "gradauto").distribution == "gatebench"
    assert registry.find("attack", "gatebench/gradauto") == registry.find("attack", "gradauto")


def test_a_name_that_two_distributions_provide():
    assert "contested" not in registry.names("attack")
    assert {"mischief/contested", "rival/contested"} <= set(registry.names("attack"))
    with pytest.raises(
        PluginError,
        match="provided by mischief and by rival; write 'mischief/contested' or 'rival/contested'",
    ):
        registry.find("attack", "contested")
    assert registry.find("attack", "rival/contested").value == "mischief.world:Wander"
    assert "write" in str(registry.find("attack", "rival/contested").error())


@pytest.mark.parametrize("loaded", [False, True], ids=["first-on-the-path", "imported"])
def test_a_package_of_the_same_name_does_not_pass_for_ours(tmp_path, monkeypatch, loaded):
    """A project's own attacks/gradauto.py, in whose folder a script lies."""
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "__init__.py").touch()
    (tmp_path / "attacks" / "gradauto.py").write_text(
        "from bench.api import Attack\nclass GradAuto(Attack):\n    pass\n"
    )
    if loaded:
        theirs = SimpleNamespace(__file__=str(tmp_path / "attacks" / "__init__.py"))
        monkeypatch.setitem(sys.modules, "attacks", theirs)
    else:
        monkeypatch.syspath_prepend(str(tmp_path))
    found = registry.find("attack", "gradauto")
    for look in (found.facts, found.load):
        with pytest.raises(
            PluginError, match=f"'gradauto' .* hidden: .* {tmp_path}/attacks/__init"
        ):
            look()
    assert "hidden" in found.error()
    assert registry.find("target", "skipnet").facts().parameters, "another package of ours"


def _distribution_of(folder, entry_points):
    """A folder for sys.path with a distribution "x" of these entry points."""
    (folder / "x.dist-info").mkdir()
    (folder / "x.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: x\n")
    (folder / "x.dist-info" / "entry_points.txt").write_text(entry_points)
    return str(folder)


def test_a_name_that_one_distribution_gives_to_two_classes(tmp_path, monkeypatch):
    points = "[gatebench.attacks]\ntwin = a:First\ntwin = b:Second\nonce = a:B\nonce = a:B\n"
    monkeypatch.syspath_prepend(_distribution_of(tmp_path, points))
    registry.providers.cache_clear()
    said = "'twin' is provided by x twice, as a:First and as b:Second; rename one of them there"
    for name in ("twin", "x/twin"):
        with pytest.raises(PluginError, match=said):
            registry.find("attack", name)
    shown = dict(zip(registry.providers("attack"), registry.names("attack"), strict=True))
    assert list(shown.values()).count("x/twin") == 2  # a row each, with the reason
    assert registry.find("attack", "once").value == "a:B"  # twice the same is no contradiction


def test_a_name_given_twice_by_one_distribution_and_once_by_another(tmp_path, monkeypatch):
    points = "[gatebench.attacks]\nwander = a:First\nwander = b:Second\n"
    monkeypatch.syspath_prepend(_distribution_of(tmp_path, points))
    registry.providers.cache_clear()
    with pytest.raises(PluginError, match="by mischief and by x; write 'mischief/wander' or 'x"):
        registry.find("attack", "wander")
    assert registry.find("attack", "mischief/wander").value == "mischief.world:Wander"
    with pytest.raises(PluginError, match="by x twice, as a:First and as b:Second"):
        registry.find("attack", "x/wander")


def test_unknown_names():
    with pytest.raises(
        UnknownName, match=r"here: unknown attack 'wnder'; did you mean 'wander'\?"
    ) as caught:
        registry.find("attack", "wnder", where="here")
    assert caught.value.exit_code == 2
    with pytest.raises(UnknownName, match="unknown data set 'x'"):
        registry.find("dataset", "x")
    with pytest.raises(UnknownName):
        registry.find("attack", "nobody/wander")


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("broken", "SystemExit: this module leaves"),
        ("absent", "No module named 'mischief.nowhere'"),
    ],
)
def test_broken_plugins_are_told_with_their_distribution(name, cause):
    provider = registry.find("attack", name)
    with pytest.raises(PluginError, match=cause) as caught:
        provider.load()
    assert "from mischief" in caught.value.message
    assert caught.value.exit_code == 7
    assert cause in provider.error()
    assert registry.find("attack", "wander").error() is None


def test_facts_need_no_import():
    for name in [module for module in sys.modules if module.partition(".")[0] == "mischief"]:
        del sys.modules[name]
    facts = registry.find("attack", "broken").facts()
    assert facts.summary == "Never gets as far as being a class."
    assert list(facts.parameters) == ["strength"]
    assert registry.find("attack", "black-box").facts().constants["access"] == "macs"
    assert registry.find("dataset", "toy-pixels").facts().constants["sizes"] == {
        "train": 8,
        "test": 40,
    }
    assert not [module for module in sys.modules if module.partition(".")[0] == "mischief"]


def test_a_module_in_a_zip_archive_has_no_file(tmp_path, monkeypatch):
    """What is handed in from there is of unknown source; named in a plan, it is not found."""
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("zipped_plugin.py", "class Net: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path / "app.zip"))
    assert source_file("zipped_plugin") is None
    assert source_digest("zipped_plugin:Net") == "unknown"
    assert not registry.is_module_class("zipped_plugin:Net")


def test_a_working_folder_that_was_removed_hides_nothing(tmp_path, monkeypatch):
    """Whoever lists plugins in a folder that another program removed still gets them."""
    monkeypatch.setattr(registry, "_added", [])
    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert registry.find("attack", "gradauto").facts().doc
    assert not registry.is_module_class("nothing_like_it:Attack")
