"""What `bench.api` and `bench.testing` export, and that their contracts say everything."""

import importlib
import inspect
import types

import pytest

from bench import api

MODULES = ("bench.api", "bench.testing")


def exported(module):
    """The public names of a module that are no modules themselves."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


@pytest.mark.parametrize("name", MODULES)
def test_all_lists_the_exported_names(name):
    module = importlib.import_module(name)
    assert set(module.__all__) == exported(module)
    assert list(module.__all__) == sorted(module.__all__, key=lambda each: (each.islower(), each))


@pytest.mark.parametrize("name", MODULES)
def test_every_exported_class_and_function_is_documented(name):
    module = importlib.import_module(name)
    for each in module.__all__:
        value = getattr(module, each)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, each


def test_every_kind_of_plugin_has_its_contract_in_the_api():
    kinds = {"Target", "Attack", "Defense", "Dataset", "Recipe", "Stage"}
    reports = {"BoardReport", "ComparisonReport", "RegressionReport"}
    assert kinds | reports <= set(api.__all__)


@pytest.mark.parametrize("contract", ["Target", "Attack", "Defense", "Dataset", "Stage"])
def test_a_contract_describes_each_of_its_attributes(contract):
    kind = getattr(api, contract)
    described = kind.__doc__.partition("Attributes:")[2]
    names = [name for name in vars(kind)["__annotations__"] if name[0] != "_"]
    assert len(names) >= 2
    for name in names:
        assert f"\n        {name}: " in described, f"{contract}.{name}"


@pytest.mark.parametrize("contract", ["Target", "Attack", "Defense", "Dataset"])
def test_a_contract_names_its_required_and_optional_methods(contract):
    kind = getattr(api, contract)
    required, _, rest = kind.__doc__.partition("Required methods:")[2].partition("\n")
    assert kind.__abstractmethods__ <= set(required.replace("`", "").strip(" .").split(", "))
    if "Optional methods:" in rest:
        optional = rest.partition("Optional methods:")[2].partition("\n")[0]
        names = [word.strip("`,.;") for word in optional.split() if word.startswith("`")]
        assert names
        for name in names:
            assert hasattr(kind, name), name
