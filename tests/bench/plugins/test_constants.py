"""Class attributes of plugins are of the kind that their contract says, or refused by name."""

import pytest

from bench.api import Attack, Dataset, Defense, Target
from bench.plugins import registry
from bench.plugins.constants import wrong_constant
from bench.plugins.declarations import ClassFacts, Parameter

WRONG = {
    "version": ("two", "a whole number"),
    "control": (1, "True or False"),
    "fits": ("yes", "True or False"),
    "randomised": (None, "True or False"),
    "access": ("everything", '"gates" or "macs"'),
    "presets": ({"a": 3}, "a dictionary of dictionaries"),
    "ranges": ({"k": "x"}, "a dictionary of (least, most)"),
    "members": (("a", "b"), "a tuple of (name, dictionary of parameters)"),
    "unkeyed_defaults": ("k", "a tuple of names"),
    "splits": ("train", "a tuple of names"),
    "sizes": ({"train": -1}, "the number of images"),
    "image_shape": ((32, 32), "three whole numbers"),
    "plan_check": (3, '"module:function"'),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_of_another_kind_is_named(name):
    value, expected = WRONG[name]
    said = wrong_constant(ClassFacts("", {}, {name: value}))
    assert said.startswith(f"{name} = ")
    assert expected in said


def test_values_that_raise_when_looked_at_are_refused():
    class Trap(dict):
        def items(self):
            raise RuntimeError("no")

    assert "presets" in wrong_constant(ClassFacts("", {}, {"presets": Trap(a={})}))


def test_a_default_without_its_parameter_is_named():
    known = {"k": Parameter("k", int, 3)}
    assert not wrong_constant(ClassFacts("", known, {"unkeyed_defaults": ("k",)}))
    said = wrong_constant(ClassFacts("", known, {"unkeyed_defaults": ("k", "zz")}))
    assert said == "unkeyed_defaults names 'zz', which is no parameter"


def test_contracts_and_everything_that_comes_along_keep_them():
    for contract in (Attack, Dataset, Defense, Target):
        assert not wrong_constant(ClassFacts("", {}, vars(contract)))
    for kind in ("target", "attack", "defense", "dataset"):
        for provider in registry.providers(kind):
            assert not wrong_constant(provider.facts())


PLUGIN = """
from bench.api import Attack

class Odd(Attack):
    members = (("odd-inner", {}),)
    def perturb(self, view, images, labels, job):
        return images

class Inner(Odd):
    pass

class Twice(Odd):
    members = (("pry", {}), ("pry", {"loss": "log(temperature=0.001, offset=0.0005)"}))

class Text(Odd):
    members = ()
    version = "two"
"""


def test_plans_lists_and_contract_tests_name_the_plugin(gatebench, tmp_path, monkeypatch):
    info = tmp_path / "site" / "odd-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    named = {"odd": "Odd", "odd-inner": "Inner", "odd-text": "Text", "odd-twice": "Twice"}
    points = "".join(f"{name} = odd_attacks:{kind}\n" for name, kind in named.items())
    (info / "entry_points.txt").write_text(f"[gatebench.attacks]\n{points}")
    (info.parent / "odd_attacks.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(info.parent))
    monkeypatch.setenv("PYTHONPATH", str(info.parent))
    registry.providers.cache_clear()
    said = "version = 'two': expected a whole number"
    plan = (tmp_path / "plan.toml").read_text()
    (tmp_path / "plan.toml").write_text(plan.replace('"still"', '"odd-text"'))
    code, _, err = gatebench("plan", "plan.toml")
    assert code == 2
    assert f"attack 'odd-text' (from odd) breaks its contract: {said}" in err
    for words in (("list", "attacks", "odd-text"), ("plugin", "test", "odd_attacks:Text")):
        code, _, err = gatebench(*words)
        assert code == 7
        assert said in err
    (tmp_path / "plan.toml").write_text(plan.replace('"still"', '"odd"'))
    code, _, err = gatebench("plan", "plan.toml")
    assert code == 2
    assert "'odd' has the ensemble 'odd-inner' as a member" in err
    (tmp_path / "plan.toml").write_text(plan.replace('"still"', '"odd-twice"'))
    code, _, err = gatebench("plan", "plan.toml")
    assert code == 2
    assert "'odd-twice' has the member 'pry' more than once" in err
    registry.providers.cache_clear()
