"""Parameters, presets and docstrings read from source, and from the class where the source does not
tell."""

import sys
import typing
from typing import Literal

import pytest

from bench.plugins.declarations import REQUIRED, describe_type, read_class

BASE = '''
"""A module."""
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Rule = Literal["a", "b"]
SIZE = 3

@dataclass(frozen=True, kw_only=True)
class Base:
    """The base."""
    version: ClassVar[int] = 2
    depth: int = 1
    rule: Rule = "a"

@dataclass(frozen=True, kw_only=True)
class Child(Base):
    """The child.

    More.
    """
    presets: ClassVar = {"big": {"depth": 9}}
    depth: int = 5
    width: float | Literal["auto"] | None = None
    pair: tuple[int, ...] = (1, 2)
    name: str

class Network:
    """Keyword only."""
    def __init__(self, *, depth: int = 20, gate: "Rule" = "b", on: bool) -> None:
        pass

@dataclass(frozen=True, kw_only=True)
class Computed:
    """Its default is computed."""
    size: int = SIZE + 1

@dataclass(frozen=True, kw_only=True)
class Odd:
    """Its annotation leads nowhere."""
    size: "Nowhere" = 1
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "somebodys.py").write_text(BASE)
    (tmp_path / "others.py").write_text(
        "from dataclasses import dataclass\nfrom somebodys import Base as Old, Rule as R\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Far(Old):\n    extra: R = 'b'\n"
    )
    yield "somebodys"
    for name in ("somebodys", "others"):
        sys.modules.pop(name, None)


def never():
    raise AssertionError("this needs no import")


def test_dataclasses_with_bases_and_aliases(module):
    facts = read_class(module, "Child", never)
    assert facts.doc == "The child.\n\nMore."
    assert facts.summary == "The child."
    assert {name: (p.annotation, p.default) for name, p in facts.parameters.items()} == {
        "depth": (int, 5),
        "rule": (Literal["a", "b"], "a"),
        "width": (typing.Union[float, Literal["auto"], None], None),  # noqa: UP007
        "pair": (tuple[int, ...], (1, 2)),
        "name": (str, REQUIRED),
    }
    assert facts.constants["version"] == 2
    assert facts.presets == {"big": {"depth": 9}}
    assert "somebodys" not in sys.modules


def test_bases_from_another_module(module):
    facts = read_class("others", "Far", never)
    assert list(facts.parameters) == ["depth", "rule", "extra"]
    assert facts.parameters["extra"].annotation == Literal["a", "b"]


def test_keyword_only_initialisers(module):
    facts = read_class(module, "Network", never)
    assert [parameter.describe() for parameter in facts.parameters.values()] == [
        "depth: int = 20",
        "gate: 'a' | 'b' = 'b'",
        "on: bool",
    ]


def test_modules(module):
    assert read_class(module, "", never).summary == "A module."


def test_what_the_source_does_not_tell_is_imported(module):
    import importlib

    def load():
        return importlib.import_module(module).Computed

    assert read_class(module, "Computed", load).parameters["size"].default == 4
    with pytest.raises(LookupError):
        read_class(module, "Missing", lambda: {}["x"])


def test_annotations_that_lead_nowhere_are_the_plugins_mistake(module, monkeypatch):
    """Not a crash of `gatebench list`, whatever the annotation."""
    from bench.errors import PluginError
    from bench.plugins import registry

    provider = registry.Provider("attack", "odd", "somebodys:Odd", "somebody")
    with pytest.raises(PluginError, match=r"odd.*somebody.*Nowhere"):
        provider.facts()


def test_types_in_words():
    assert describe_type(int | Literal["budget"]) == "int | 'budget'"
    assert describe_type(tuple[float, ...]) == "[float, …]"
    assert describe_type(None | str) == "none | str"


FAR = {
    "faces/__init__.py": "from .inner import *\nfrom .inner.deep import Deep as Known\n",
    "faces/inner/__init__.py": "from ..inner.deep import Deep, Pictures\n",
    "faces/inner/deep.py": (
        '"""Deep."""\nfrom bench import api\nfrom bench.api import Dataset\nimport torch.nn as nn\n'
        "class Deep(api.Defense):\n    '''A defense.'''\n    version = 3\n"
        "    def __init__(self, *, size: int = 4) -> None: ...\n"
        "    def wrap(self, target, learnt=None): ...\n"
        "class Pictures(Dataset):\n    '''Pictures.'''\n    sizes = {'test': 7}\n"
        "class Layer(nn.Module):\n    '''A layer.'''\n    version = 5\n"
        "    def __init__(self, *, width: int = 4) -> None: ...\n"
    ),
    "faces/user.py": (
        "import faces\nimport faces.inner.deep as deep\nfrom faces import Known\n"
        "class Mine(Known):\n    '''By name.'''\n"
        "class Yours(faces.Deep):\n    '''By module.'''\n    presets = {'big': {'size': 9}}\n"
        "class Ours(deep.Deep):\n    '''By an alias.'''\n    ranges = {'size': (1, 9)}\n"
        "class Circle(Other):\n    '''Leads nowhere.'''\n"
        "from faces.user import Other\n"
    ),
}


@pytest.fixture
def faces(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in FAR.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize("name", ["Mine", "Yours", "Ours"])
def test_a_base_class_is_found_through_re_exports(faces, name):
    facts = read_class("faces.user", name, never)
    assert [parameter.describe() for parameter in facts.parameters.values()] == ["size: int = 4"]
    assert facts.constants["version"] == 3
    assert facts.constants["fits"] is False, "the contract's own default"
    assert facts.presets == ({"big": {"size": 9}} if name == "Yours" else {})
    assert "faces" not in sys.modules


def test_a_class_is_found_where_a_package_re_exports_it(faces):
    assert read_class("faces", "Known", never).doc == "A defense."
    assert read_class("faces", "Pictures", never).constants["sizes"] == {"test": 7}


def test_a_base_class_of_torch_needs_no_import_of_torch(faces):
    facts = read_class("faces.inner.deep", "Layer", never)
    assert list(facts.parameters) == ["width"]
    assert facts.constants["version"] == 5


def test_names_that_import_each_other_in_a_circle_are_not_followed_for_ever(faces):
    with pytest.raises(AssertionError, match="no import"):
        read_class("faces.user", "Circle", never)


def test_attributes_come_from_the_contract_whatever_they_are_called():
    facts = read_class("attacks.autoenergy", "AutoEnergy", never)
    assert facts.constants["members"][0] == ("pry", {})
    assert facts.constants["control"] is False
    assert facts.constants["access"] == "gates"


def test_a_dataset_is_read_without_importing_torch(child_environment):
    import subprocess

    code = (
        "import sys\nfrom bench.plugins.declarations import read_class\n"
        "facts = read_class('bench.api', 'Dataset', lambda: 1 / 0)\n"
        "assert facts.constants['splits'] == ('train', 'test')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=child_environment(), timeout=60)
