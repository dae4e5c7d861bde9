"""Where things lie in `targets/`: a family is a folder with its network, its pieces, its importer."""

import importlib
from pathlib import Path

import pytest

import targets
from bench.plugins import registry

HOME = Path(targets.__file__).parent
FAMILIES = (
    "resnet",
    "skipnet",
    "sact",
    "manidp",
    "sdn",
    "fbs",
    "cascade",
    "vit",
    "avit",
    "dynamicvit",
    "aig",
    "dynconv",
)


def test_the_folders_are_families_shared_pieces_defenses_recipes_and_weights():
    found = {path.name for path in HOME.iterdir() if (path / "__init__.py").is_file()}
    assert found == {*FAMILIES, "pieces", "defenses", "recipes", "weights"}
    assert [path.name for path in HOME.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_exports_its_network_which_lies_in_network_py(family):
    provider = registry.find("target", family)
    module, _, name = provider.value.partition(":")
    assert module == f"targets.{family}"
    package = importlib.import_module(module)
    assert name in package.__all__
    assert getattr(package, name).__module__ == f"targets.{family}.network"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_is_read_through_its_package_without_importing_it(family):
    facts = registry.find("target", family).facts()
    assert facts.source == HOME / family / "network.py"
    assert facts.parameters["num_classes"].default == "auto"


def test_shared_pieces_know_no_family_but_the_backbone():
    for path in (HOME / "pieces").glob("*.py"):
        for family in set(FAMILIES) - {"resnet"}:
            assert f"targets.{family}" not in path.read_text(), path
