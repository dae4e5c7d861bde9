import pytest
from click.testing import CliRunner

from bench import __version__
from bench.cli.cite import bibliography, cite
from bench.errors import PlanError
from bench.plugins import registry


def keys(*names):
    output = CliRunner().invoke(cite, names, catch_exceptions=False).output
    return [
        line.partition("{")[2].rstrip(",") for line in output.splitlines() if line.startswith("@")
    ]


def test_all_of_them_and_ours_first():
    assert keys()[0] == "gatebench"
    assert {"gradauto", "ilfo", "skipnet", "ptflops"} <= set(keys())
    assert f"{{{__version__}}}" in bibliography()["gatebench"]


def test_only_those_named():
    assert keys("gradauto:code", "cifar100:test", "digits-m:test", "cifar10:test") == [
        "gatebench",
        "gradauto",
        "cifar",
        "digits",
    ]
    with pytest.raises(PlanError, match="did you mean 'gradauto'"):
        keys("gradato")


def test_entries_are_well_formed():
    for key, entry in bibliography().items():
        assert entry.count("{") == entry.count("}")
        assert "title" in entry
        assert entry.startswith("@")
        assert key in entry.splitlines()[0]


@pytest.mark.parametrize("kind", ["target", "dataset"])
def test_what_we_ship_can_be_cited(kind):
    for name in [
        row.name
        for row in registry.providers(kind)
        if row.distribution == "gatebench" and row.name != "imagefolder"
    ]:
        assert len(keys(name)) == 2
