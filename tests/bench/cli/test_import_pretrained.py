"""`gatebench weights import` of pretrained classifiers: from a package, a file, a hub."""

import pytest
import torch
from click.testing import CliRunner

from bench import weights
from bench.cli.weights import weights as command
from bench.errors import PlanError, WeightsError
from targets.sdn import SDN

TINY = "test_efficientnet"
NAME = "tiny-static@imagenet"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


@pytest.fixture
def net():
    torch.manual_seed(0)
    return SDN(backbone=TINY, exits="none").backbone.net


def run(source, *more, name=NAME):
    arguments = ["import", str(source), "--target", "sdn", "--as", name]
    chosen = ["--set", f"backbone={TINY}", "--set", "exits=none", *more]
    return CliRunner().invoke(command, [*arguments, *chosen])


def loaded(classes):
    target = SDN(backbone=TINY, exits="none", num_classes=classes)
    weights.load_entry(target, weights.find(NAME))
    return target.backbone.net


def test_a_package_keeps_its_file(net, tmp_path, monkeypatch):
    """Other names in the same order, and three of the thousand classes."""
    folder = tmp_path / "site" / "tiny_weights"
    folder.mkdir(parents=True)
    state = net.state_dict()
    renamed = {
        f"_{place}.{name.rpartition('.')[2]}": state[name] for place, name in enumerate(state)
    }
    torch.save(renamed, folder / "tiny.pth")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    source = "package:tiny_weights/tiny.pth"
    more = ("--set", "num_classes=3", "--rows", "7,0,999", "--licence", "Apache-2.0")
    result = run(source, *more)
    assert result.exception is None, result.output
    entry = weights.find(NAME)
    (part,) = entry.parts
    assert (part.prefix, part.match, part.rows) == ("backbone.net.", "order", (7, 0, 999))
    assert (part.source, part.licence) == (source, "Apache-2.0")
    assert entry.bytes < 1000, "nothing but the threshold is stored"
    assert torch.equal(loaded(3).classifier.weight, net.classifier.weight[[7, 0, 999]])


def test_a_file_is_copied(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "tiny.pth")
    result = run(tmp_path / "tiny.pth")
    assert result.exception is None, result.output
    entry = weights.find(NAME)
    assert not entry.parts
    assert entry.more["source_sha256"] == weights.sources.file_digest(tmp_path / "tiny.pth")
    (tmp_path / "tiny.pth").unlink()
    assert torch.equal(loaded("auto").conv_stem.weight, net.conv_stem.weight)


def test_the_hub_tells_the_licence(net, tmp_path, monkeypatch):
    import safetensors.torch

    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(net.state_dict(), file)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *names: str(file))
    result = run(f"hub:{TINY}.r160_in1k")
    assert result.exception is None, result.output
    entry = weights.find(NAME)
    assert entry.licence == "apache-2.0"
    assert torch.equal(loaded("auto").conv_stem.weight, net.conv_stem.weight)


def test_weights_for_images_prepared_otherwise_are_not_fetched(monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *names: pytest.fail("fetched"))
    result = run("hub:tf_efficientnet_b0.ap_in1k")
    assert isinstance(result.exception, WeightsError)
    assert "was trained on images less 0.5/0.5/0.5" in result.exception.message


@pytest.mark.parametrize("rows", ["a,b", "-1", "3,3"], ids=["words", "negative", "twice"])
def test_rows_that_are_none(tmp_path, net, rows):
    torch.save(net.state_dict(), tmp_path / "tiny.pth")
    result = run(tmp_path / "tiny.pth", "--set", "num_classes=2", "--rows", rows)
    assert isinstance(result.exception, PlanError)
    assert "--rows" in result.exception.message


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(",".join(map(str, reversed(range(1000)))), id="all-in-another-order"),
        pytest.param("0,1", id="fewer-than-the-network-has"),
    ],
)
def test_rows_that_would_change_nothing(tmp_path, net, rows):
    """Imported all the same, the labels would mean other classes than asked for."""
    torch.save(net.state_dict(), tmp_path / "tiny.pth")
    result = run(tmp_path / "tiny.pth", "--rows", rows)
    assert isinstance(result.exception, WeightsError)
    assert "as many classes as the network" in result.exception.message
    assert NAME not in weights.entries()
