"""Weights of which a part lies elsewhere: in other weights, or in an installed package."""

import hashlib

import pytest
import torch
from torch import nn

from bench import weights
from bench.errors import PlanError, WeightsError
from bench.plugins import registry
from bench.weights import sources
from bench.weights.parts import WeightsPart, fitted


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home, and no packages that ship weights."""
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(registry, "providers", lambda kind: ())
    return tmp_path / "home" / "weights"


class Network(nn.Module):
    """A backbone of two layers, and a head."""

    def __init__(self, classes=2):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, classes))
        self.head = nn.Linear(4, classes)


ROWS = (2, 0)
THEIRS = {
    "_stem.weight": torch.arange(12.0).reshape(4, 3),
    "_stem.bias": torch.arange(4.0),
    "_fc.weight": torch.arange(20.0).reshape(5, 4),
    "_fc.bias": torch.arange(5.0),
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a checkpoint in it: (its source, the file)."""
    folder = tmp_path / "site" / "pretrained_numbers" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('nobody imports this')\n")
    torch.save(THEIRS, folder / "numbers.pth")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return "package:pretrained_numbers/models/numbers.pth", folder / "numbers.pth"


def part_of(package, **more):
    source, file = package
    settings = {"match": "order", "rows": ROWS, "licence": "Apache-2.0", **more}
    return WeightsPart("backbone.", source, sources.file_digest(file), **settings)


def test_a_part_is_read_from_a_package_that_is_not_imported(home, package):
    network = Network()
    part = part_of(package)
    entry = weights.add_entry(
        home, "exits@toy", network.state_dict(), {"target": "t"}, parts=[part]
    )
    assert set(weights.read_state(entry)) == {"head.weight", "head.bias"}
    found = weights.find("exits@toy")
    assert found == entry
    assert found.parts == (part,)
    loaded = Network()
    weights.load_entry(loaded, found)
    assert torch.equal(loaded.backbone[0].weight, THEIRS["_stem.weight"])
    assert torch.equal(loaded.backbone[1].weight, THEIRS["_fc.weight"][[2, 0]])
    assert loaded.backbone[1].bias.tolist() == [2.0, 0.0]
    assert torch.equal(loaded.head.weight, network.head.weight)


def test_a_part_is_read_from_other_weights(home):
    plain = nn.Linear(4, 2)
    base = weights.add_entry(home, "plain@toy", plain.state_dict(), {"target": "t"})
    part = WeightsPart("head.", "weights:plain@toy", base.digest)
    network = Network()
    entry = weights.add_entry(home, "both@toy", network.state_dict(), {"target": "t"}, parts=[part])
    loaded = Network()
    weights.load_entry(loaded, entry)
    assert torch.equal(loaded.head.weight, plain.weight)
    assert torch.equal(loaded.backbone[0].weight, network.backbone[0].weight)
    weights.add_entry(home, "plain@toy", nn.Linear(4, 2).state_dict(), {"target": "t"})
    with pytest.raises(WeightsError, match="is another file than they were made with"):
        weights.load_entry(Network(), entry)


def test_the_digest_vouches_for_the_parts_too(home, package):
    state = Network().state_dict()
    plain = weights.add_entry(home, "a", state, {"target": "t"})
    assert plain.digest == plain.sha256
    made = weights.add_entry(home, "b", state, {"target": "t"}, parts=[part_of(package)])
    other = weights.add_entry(
        home, "c", state, {"target": "t"}, parts=[part_of(package, rows=(0, 1))]
    )
    assert made.sha256 == other.sha256
    assert len({made.digest, other.digest, made.sha256}) == 3


def test_an_altered_package_is_refused(home, package):
    entry = weights.add_entry(
        home, "b", Network().state_dict(), {"target": "t"}, parts=[part_of(package)]
    )
    weights.check_files(entry)
    torch.save({**THEIRS, "_fc.bias": torch.zeros(5)}, package[1])
    with pytest.raises(WeightsError, match="is another file than they were made with"):
        weights.check_files(entry)


def test_code_in_a_package_is_not_run(home, package):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({**THEIRS, "evil": Evil()}, package[1])
    entry = weights.add_entry(
        home, "b", Network().state_dict(), {"target": "t"}, parts=[part_of(package)]
    )
    with pytest.raises(WeightsError, match=r"wants to run (builtins|__builtin__)\.print"):
        weights.load_entry(Network(), entry)


def test_a_missing_package_is_named_with_what_installs_it(home, package):
    part = part_of(package, install="gatebench[numbers]")
    part = WeightsPart(**{**vars(part), "source": "package:not_here_at_all/x.pth"})
    entry = weights.add_entry(home, "b", Network().state_dict(), {"target": "t"}, parts=[part])
    with pytest.raises(weights.NotInstalled, match="not_here_at_all is not installed") as caught:
        weights.check_files(entry)
    assert caught.value.hint == "pip install 'gatebench[numbers]'"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": ()}, r"_fc.weight \[5, 4\] stands where the network has 1.weight \[2, 4\]"),
        ({"rows": (0, 7)}, r"_fc.weight \[5, 4\] stands where"),
        ({"inside": "_stem."}, "holds 2 tensors, the network has 4"),
    ],
    ids=["other-classes", "no-such-row", "too-few"],
)
def test_tensors_that_do_not_pair(package, change, told):
    with pytest.raises(WeightsError, match=told):
        fitted(part_of(package, **change), THEIRS, Network().state_dict(), "b")


def test_rows_of_a_layer_that_has_no_others(package):
    """As many classes in another order: nothing tells which layer is the last."""
    expected = Network(classes=5).state_dict()
    for match, theirs in (("order", THEIRS), ("name", Network(5).backbone.state_dict())):
        part = part_of(package, match=match, rows=(4, 3, 2, 1, 0))
        with pytest.raises(WeightsError, match="rows keep 5 classes"):
            fitted(part, theirs, expected, "b")


def test_tensors_in_another_order_do_not_pair(package):
    turned = dict(reversed(THEIRS.items()))
    with pytest.raises(WeightsError, match="stands where"):
        fitted(part_of(package), turned, Network().state_dict(), "b")


def test_tensors_sorted_by_name_are_not_paired_by_order(package):
    """As safetensors stores them: layer 10 would become layer 2."""
    layers = [nn.Linear(2, 2, bias=False) for _ in range(12)]
    expected = nn.ModuleDict({"backbone": nn.Sequential(*layers)}).state_dict()
    theirs = {f"_layer.{number}.weight": torch.full((2, 2), number) for number in range(12)}
    found = fitted(part_of(package, rows=()), theirs, expected, "b")
    assert found["backbone.10.weight"][0, 0] == 10
    with pytest.raises(WeightsError, match="holds its tensors sorted by name, 10 before 2"):
        fitted(part_of(package, rows=()), dict(sorted(theirs.items())), expected, "b")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"source": "weights:a"}, "has no 'sha256'"),
        ({"source": "weights:a", "sha256": "12"}, "64 hexadecimal digits"),
        ({"source": 3, "sha256": "a" * 64}, "'source' is no text"),
        ({"source": "weights:a", "sha256": "a" * 64, "rows": [-1]}, "whole numbers"),
        (
            {"source": "weights:a", "sha256": "a" * 64, "match": "luck"},
            'match is "name" or "order"',
        ),
        ({"source": "weights:a", "sha256": "a" * 64, "color": "red"}, "unknown key 'color'"),
        ("weights:a", "is no table"),
    ],
    ids=["no-digest", "short-digest", "source", "rows", "match", "stranger", "text"],
)
def test_parts_that_are_written_wrong(home, table, told):
    weights.add_entry(home, "a", {"x": torch.zeros(1)}, {"target": "t"})
    path = home / weights.MANIFEST
    from bench.files.toml import dump_value

    path.write_text(path.read_text() + f'parts = {{ "x." = {dump_value(table)} }}\n')
    with pytest.raises(WeightsError, match=told):
        weights.read_manifest(home)


@pytest.mark.parametrize(
    "source",
    ["package:numpy", "package:numpy/../../etc/passwd", "package:/etc/passwd"],
    ids=["no-file", "upwards", "no-module"],
)
def test_sources_that_leave_their_package(source):
    with pytest.raises(PlanError, match="package:MODULE/PATH"):
        sources.locate(source)


def test_a_file_that_a_package_lacks():
    with pytest.raises(WeightsError, match=r"numpy has no file weights\.pth"):
        sources.locate("package:numpy/weights.pth")


def test_the_hub_is_asked_for_what_timm_knows(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *names: asked.append(names) or str(file)
    )
    found = sources.locate("hub:resnet18.a1_in1k")
    assert found == sources.Located(file, "apache-2.0")
    assert asked == [("timm/resnet18.a1_in1k", "model.safetensors")]
    assert sources.file_digest(file) == hashlib.sha256(b"x").hexdigest()


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def refuse(*names):
        raise OSError("no connection\nand more")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(WeightsError, match=r"cannot be fetched: no connection") as caught:
        sources.locate("hub:resnet18.a1_in1k")
    assert "import the file" in caught.value.hint


@pytest.mark.parametrize("name", ["resnt18", "resnet18.nobody"], ids=["model", "tag"])
def test_names_that_timm_has_no_weights_for(name):
    with pytest.raises(PlanError, match="knows no pretrained weights of that name"):
        sources.locate(f"hub:{name}")


def test_weights_that_take_images_otherwise_are_refused():
    """With the names and shapes of the network, and numbers for other pixels."""
    other, fitting = "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "deit_tiny_patch16_224"
    for source, backbone in (
        (other, fitting),
        ("tf_efficientnet_b0.ap_in1k", "tf_efficientnet_b0"),
    ):
        with pytest.raises(WeightsError, match=r"less 0.5/0.5/0.5 over .* takes 0.485/") as caught:
            sources.check_preparation(f"hub:{source}", {"backbone": backbone})
        assert caught.value.hint == f"--set backbone={source}"
        sources.check_preparation(f"hub:{source}", {"backbone": source})
    for source in ("hub:resnet18.a1_in1k", "hub:nothing", "/a/file", "package:module/file"):
        sources.check_preparation(source, {"backbone": "resnet18"})
    sources.check_preparation(f"hub:{other}", {"backbone": "vit-64x4"})
    sources.check_preparation(f"hub:{other}", {})
