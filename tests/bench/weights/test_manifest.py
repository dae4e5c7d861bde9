import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from bench import weights
from bench.errors import DiskError, PlanError, UnknownName, WeightsError
from bench.files import atomic
from bench.plugins import registry
from bench.plugins.registry import Provider

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}
FACTS = {
    "target": "skipnet", "params": {"depth": 20, "gate": "rnn"}, "licence": "MIT", "dataset": "digits-m", "recipe": "skipnet",
    "stage": "budget", "seed": 0, "accuracy": 0.951, "static_accuracy": 0.955, "clean_saving": 0.35, "spread": 0.09, "ceiling": 41_000_000,
    "gates_varying": 5, "opening_rates": [0.2, 1.0], "epochs": 24, "seconds": 300.5, "torch": "2.14",
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home, and no packages that ship weights."""
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(registry, "providers", lambda kind: ())
    return tmp_path / "home" / "weights"


def test_what_is_added_is_found_again(home):
    added = weights.add_entry(home, "tiny@toy", STATE, FACTS)
    found = weights.find("tiny@toy")
    assert found == added
    assert {key: getattr(found, key) for key in FACTS if key not in ("torch", "opening_rates")} == {
        key: value for key, value in FACTS.items() if key not in ("torch", "opening_rates")
    }
    assert found.opening_rates == (0.2, 1.0)
    assert found.more == {"torch": "2.14"}
    assert (found.bytes, found.origin) == (found.path.stat().st_size, "own")
    assert found.sha256 == hashlib.sha256(found.path.read_bytes()).hexdigest()
    state = weights.read_state(found)
    assert all(torch.equal(state[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(torch.float8_e4m3fn, id="float8"),
        pytest.param(torch.complex64, id="complex"),
    ],
)
def test_types_that_lose_what_weights_held_are_not_written(home, dtype):
    with pytest.raises(
        WeightsError, match=r"weights 'a': holds weights that are not those.*: w \("
    ):
        weights.add_entry(home, "a", {"w": torch.ones(2).to(dtype)}, FACTS)
    assert not list(home.glob("*.safetensors"))


def test_same_tensors_same_bytes(home, tmp_path):
    first = weights.add_entry(home, "a", STATE, {"target": "t"})
    turned = dict(reversed(STATE.items()))
    second = weights.add_entry(tmp_path / "other", "a", turned, {"target": "t"})
    assert first.path.read_bytes() == second.path.read_bytes()
    assert (home / "manifest.toml").read_bytes() == (
        tmp_path / "other" / "manifest.toml"
    ).read_bytes()


def test_shared_and_sliced_tensors_can_be_stored(home):
    base = torch.arange(12.0).reshape(3, 4)
    entry = weights.add_entry(home, "a", {"x": base.T, "y": base, "z": base[1:]}, {"target": "t"})
    state = weights.read_state(entry)
    assert torch.equal(state["x"], base.T)
    assert torch.equal(state["z"], base[1:])


def test_adding_again_replaces_and_keeps_the_others(home):
    weights.add_entry(home, "a", STATE, {"target": "t"})
    weights.add_entry(home, "b", STATE, {"target": "t", "seed": 1})
    weights.add_entry(home, "a", {"w": torch.ones(1)}, {"target": "u"})
    assert {name: entry.target for name, entry in weights.entries().items()} == {"a": "u", "b": "t"}
    assert weights.find("b").seed == 1
    assert list(weights.read_state(weights.find("a"))) == ["w"]


def test_two_writers_lose_nothing(home):
    """The lock is held on a file handle of each writer's own, so threads stand in for processes
    here."""
    names = [f"net{i}" for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: weights.add_entry(home, name, STATE, {"target": "t"}), names))
    assert sorted(weights.entries()) == names


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        pytest.param(lambda data: data[:-1], "cut short", id="cut"),
        pytest.param(lambda data: b"", "cut short", id="empty"),
        pytest.param(lambda data: data[:-1] + bytes([data[-1] ^ 1]), "was altered", id="flipped"),
        pytest.param(lambda data: data + b"x", "was altered", id="longer"),
        pytest.param(None, "No such file", id="gone"),
    ],
)
def test_damaged_files_are_refused(home, damage, match):
    entry = weights.add_entry(home, "a", STATE, {"target": "t"})
    if damage is None:
        entry.path.unlink()
    else:
        entry.path.write_bytes(damage(entry.path.read_bytes()))
    with pytest.raises(WeightsError, match=match) as caught:
        weights.read_state(entry)
    assert "'a'" in str(caught.value)
    assert caught.value.exit_code == 3


def test_right_digest_of_the_wrong_format(home):
    entry = weights.add_entry(home, "a", STATE, {"target": "t"})
    entry.path.write_bytes(b"x" * 40)
    manifest = home / "manifest.toml"
    text = manifest.read_text().replace(entry.sha256, hashlib.sha256(b"x" * 40).hexdigest())
    manifest.write_text(text.replace(f"bytes = {entry.bytes}", "bytes = 40"))
    with pytest.raises(WeightsError, match="no safetensors file"):
        weights.read_state(weights.find("a"))


@pytest.mark.parametrize("name", ["", "A", "../a", "a/b", "a b", "-a", "a" * 97, "ä"])
def test_names_that_cannot_be(home, name):
    with pytest.raises(PlanError, match="cannot name weights"):
        weights.add_entry(home, name, STATE, {"target": "t"})
    assert not home.exists()


def test_what_is_not_finite_is_not_stored(home):
    with pytest.raises(WeightsError, match="not finite: bad"):
        weights.add_entry(
            home,
            "a",
            {"good": torch.ones(1), "bad": torch.tensor([1.0, float("nan")])},
            {"target": "t"},
        )
    with pytest.raises(WeightsError, match="accuracy is not finite"):
        weights.add_entry(home, "a", STATE, {"target": "t", "accuracy": float("nan")})


def test_a_full_disk_keeps_the_manifest(home, monkeypatch):
    weights.add_entry(home, "a", STATE, {"target": "t"})
    before = (home / "manifest.toml").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(DiskError, match="No space left"):
        weights.add_entry(home, "b", STATE, {"target": "t"})
    assert (home / "manifest.toml").read_bytes() == before
    assert sorted(path.name for path in home.iterdir()) == ["a.safetensors", "manifest.toml"]


@pytest.mark.parametrize("nth", [0, 1, 2], ids=["weights", "record", "manifest"])
def test_a_full_disk_keeps_the_weights_that_were_to_be_replaced(home, monkeypatch, nth):
    entry = weights.add_entry(home, "a", STATE, {"target": "t"}, {"curves": [1]})
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    flushed, calls = os.fsync, []

    def full(handle):
        if stat.S_ISREG(os.fstat(handle).st_mode):
            calls.append(handle)
            if len(calls) == nth + 1:
                raise OSError(28, "No space left on device")
        return flushed(handle)

    monkeypatch.setattr(atomic.os, "fsync", full)
    other = {name: value + 1 for name, value in STATE.items()}
    with pytest.raises(DiskError, match="No space left"):
        weights.add_entry(home, "a", other, {"target": "t"}, {"curves": [2]})
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before
    assert weights.find("a") == entry
    weights.check_files(entry)


def test_a_folder_that_cannot_be_flushed_holds_weights_of_one_kind(home, monkeypatch):
    weights.add_entry(home, "a", STATE, {"target": "t"})
    flushed = os.fsync

    def faulty(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(5, "Input/output error")
        return flushed(handle)

    monkeypatch.setattr(atomic.os, "fsync", faulty)
    other = {name: value + 1 for name, value in STATE.items()}
    with pytest.raises(DiskError, match="Input/output error"):
        weights.add_entry(home, "a", other, {"target": "t"})
    weights.check_files(weights.find("a"))


def test_unknown_names_meet_the_nearest(home):
    weights.add_entry(home, "skipnet-20-budget@digits-m", STATE, {"target": "t"})
    with pytest.raises(UnknownName, match="did you mean 'skipnet-20-budget@digits-m'") as caught:
        weights.find("skipnet-20-buget@digits-m")
    assert "'gatebench weights list'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[a]\nfile =", r"manifest\.toml"),
        ("a = 1", "'a' is no table"),
        ('[a]\nfile = "x.safetensors"', "no 'sha256'; .*no 'target'"),
        ('[a]\nfile = "../x.safetensors"\nsha256 = "0"\ntarget = "t"', "no plain name"),
        ('[a]\nfile = "x.pth"\nsha256 = "0"\ntarget = "t"', "no plain name"),
        ('[a]\nfile = "x.safetensors"\nsha256 = "12"\ntarget = "t"', "64 hexadecimal"),
        (
            '[a]\nfile = "x.safetensors"\nsha256 = "12"\ntarget = "t"\nseed = "1"',
            "seed = '1' is of the wrong type",
        ),
        (
            '[a]\nfile = "x.safetensors"\nsha256 = "12"\ntarget = "t"\nseed = true',
            "seed = True is of the wrong type",
        ),
        (
            '[a]\nfile = "x.safetensors"\nsha256 = "12"\ntarget = "t"\nspread = inf',
            "spread is not finite",
        ),
    ],
)
def test_broken_manifests(home, text, match):
    home.mkdir(parents=True)
    (home / "manifest.toml").write_text(text)
    with pytest.raises(WeightsError, match=match):
        weights.read_manifest(home)
    assert weights.entries() == {}, "a broken manifest is a row, not a crash"
    with pytest.raises(WeightsError, match="a manifest cannot be read"):
        weights.find("a")
    with pytest.raises(WeightsError):
        weights.add_entry(home, "b", STATE, {"target": "t"})


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        pytest.param("ceiling", 10**400, "beyond 64 bits", id="ceiling"),
        pytest.param("seconds", -(10**400), "beyond 64 bits", id="seconds"),
        pytest.param("accuracy", 10**400, "beyond 64 bits", id="accuracy"),
        pytest.param("accuracy", 93.1, "no share", id="percent"),
        pytest.param("static_accuracy", -0.5, "no share", id="negative"),
    ],
)
def test_numbers_that_nobody_measured(home, key, value, told):
    """They would be shown as 9310 %, or end in a traceback of whoever lists all weights."""
    with pytest.raises(WeightsError, match=f"{key}.*{told}"):
        weights.add_entry(home, "a", STATE, {"target": "t", key: value})
    assert not home.exists()


def test_packages_ship_theirs(home, tmp_path, monkeypatch):
    folder = tmp_path / "plug_pack" / "inner"
    weights.add_entry(folder, "both", STATE, {"target": "shipped"})
    weights.add_entry(home, "both", STATE, {"target": "own"})
    rows = (
        Provider("weights", "x", "plug_pack.inner", "plug"),
        Provider("weights", "y", "nowhere_pack", "gone"),
    )
    monkeypatch.setattr(registry, "providers", lambda kind: rows)
    (tmp_path / "plug_pack" / "__init__.py").write_text("raise SystemExit('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert {name: entry.target for name, entry in weights.entries().items()} == {
        "both": "shipped",
        "own/both": "own",
    }
    assert weights.find("both") == weights.find("plug/both")
    assert weights.find("own/both").target == "own"
    problems = {manifest.origin: manifest.problem for manifest in weights.manifests()}
    assert problems == {"plug": "", "gone": "the package nowhere_pack is not there", "own": ""}


def test_load_into_lists_everything():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    good = {key: value.clone() for key, value in net.state_dict().items()}
    before = {key: value.clone() for key, value in good.items()}
    bad = dict(good)
    del bad["0.bias"]
    bad |= {
        "9.weight": torch.ones(1),
        "0.weight": torch.ones(2, 4),
        "1.weight": torch.tensor([float("inf"), 1.0]),
        "1.bias": torch.ones(2).int(),
    }
    with pytest.raises(WeightsError) as caught:
        weights.load_into(net, bad)
    for line in (
        "missing: 0.bias [2]",
        "unexpected: 9.weight [1]",
        "misshapen: 0.weight is [2, 4], expected [2, 3]",
        "not finite: 1.weight",
        "of the wrong type: 1.bias is torch.int32",
    ):
        assert line in caught.value.message
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items()), (
        "all of them or none"
    )
    weights.load_into(net, {key: value + 1 for key, value in good.items()})
    assert torch.equal(net[0].weight, before["0.weight"] + 1)


def test_a_variance_below_zero_is_no_weight():
    """Its root is no number, and so are all logits."""
    norm = torch.nn.BatchNorm2d(2)
    state = {**norm.state_dict(), "running_var": torch.tensor([1.0, -1.0])}
    with pytest.raises(WeightsError, match="negative: running_var, which is a variance"):
        weights.load_into(norm, state)


def test_numbers_that_overflow_the_network_are_not_finite():
    state = {key: value.double() for key, value in nn.Linear(2, 1).state_dict().items()}
    state["bias"] += 1e300
    assert weights.mismatches(nn.Linear(2, 1), state) == ["not finite: bias"]


def test_a_record_lies_beside_the_weights(tmp_path):
    record = {
        "curves": {"loss": [2.0, 1.0]},
        "rates": [0.5, 1.0],
        "owners": [["a", "block", [], 2]],
    }
    weights.add_entry(tmp_path, "one", {"w": torch.zeros(2)}, {"target": "resnet"}, record)
    entry = weights.read_manifest(tmp_path)["one"]
    assert weights.read_record(entry) == record
    (tmp_path / entry.record).write_text("{}")
    with pytest.raises(WeightsError, match=r"one\.json was altered"):
        weights.read_record(entry)
    (tmp_path / entry.record).unlink()
    with pytest.raises(WeightsError, match=r"one\.json"):
        weights.read_record(entry)
    weights.add_entry(tmp_path, "two", {"w": torch.zeros(2)}, {"target": "resnet"})
    assert weights.read_record(weights.read_manifest(tmp_path)["two"]) is None
    text = (tmp_path / "manifest.toml").read_text().replace('"one.json"', '"../one.json"')
    (tmp_path / "manifest.toml").write_text(text)
    with pytest.raises(WeightsError, match="no plain name of a JSON file"):
        weights.read_manifest(tmp_path)
