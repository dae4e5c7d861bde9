import gzip
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch

from bench.errors import WeightsError
from bench.weights.checkpoint import read_checkpoint

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}
WRAPPED = {
    "iter": 5,
    "arch": "skip",
    "best_prec1": np.float64(93.3),
    "state_dict": {f"module.{k}": v for k, v in STATE.items()},
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pth.tar"


def same(state):
    return state.keys() == STATE.keys() and all(
        torch.equal(state[key], STATE[key]) for key in STATE
    )


@pytest.mark.parametrize("new", [True, False])
def test_wrapper_prefix_and_numpy_scalars(path, new):
    torch.save(WRAPPED, path, _use_new_zipfile_serialization=new)
    found = read_checkpoint(path)
    assert same(found.state)
    assert found.facts == {"iter": 5, "arch": "skip", "best_prec1": pytest.approx(93.3)}


def test_old_names_of_numpy_scalars(path):
    """numpy before 2 called the module numpy.core; the files of 2018 say so."""
    torch.save(WRAPPED, path, _use_new_zipfile_serialization=False)
    old = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != path.read_bytes()
    path.write_bytes(old)
    assert read_checkpoint(path).facts["best_prec1"] == pytest.approx(93.3)


class OldTensor:
    """Pickles as torch 0.2 and 0.3 did: `_rebuild_tensor`, without the fields that came later."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        tensor = self.tensor
        return torch._utils._rebuild_tensor, (
            tensor.storage(),
            tensor.storage_offset(),
            tuple(tensor.size()),
            tensor.stride(),
        )


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_tensors_of_torch_0_3(path):
    old = OrderedDict((f"module.{key}", OldTensor(value)) for key, value in STATE.items())
    torch.save({"epoch": 1, "state_dict": old}, path, _use_new_zipfile_serialization=False)
    assert same(read_checkpoint(path).state)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        OrderedDict(STATE),
        {"state_dict": STATE, "optimizer": torch.optim.SGD([torch.ones(1)]).state_dict()},
    ],
)
def test_bare_states_and_full_training_states(path, content):
    torch.save(content, path)
    assert same(read_checkpoint(path).state)


def test_safetensors(path):
    safetensors.torch.save_file(STATE, path)
    assert same(read_checkpoint(path).state)


def evil(path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {path.parent / 'ran'}",))

    return Evil()


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle-0", "pickle-2", "pickle-4"])
def test_an_evil_pickle_does_not_run_and_is_named(path, form):
    content = {"state_dict": {"a": evil(path)}}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(form[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        WeightsError,
        match=r"wants to run (posix|nt)\.system, which no weights need; it was not run",
    ):
        read_checkpoint(path)
    assert not (path.parent / "ran").exists()


def test_a_whole_module_is_refused_by_name(path):
    torch.save(torch.nn.Linear(2, 3), path)
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear") as caught:
        read_checkpoint(path)
    assert "state_dict" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\n\n<!DOCTYPE HTML><html><title>Sign in</title>", "a web page", id="page"),
        pytest.param(b"\xef\xbb\xbf<html lang=en>", "a web page", id="page-with-mark"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n",
            "Git LFS pointer",
            id="lfs",
        ),
        pytest.param(gzip.compress(b"x" * 99, mtime=0), "compressed with gzip", id="gzip"),
        pytest.param(b"BZh91AY&SY", "compressed archive", id="bzip2"),
        pytest.param(b"\x89HDF\r\n\x1a\nxxxx", "HDF5", id="hdf5"),
        pytest.param(b'{"message": "Not Found"}', "JSON", id="json"),
        pytest.param(
            b"weights go here", "is no checkpoint: it begins with b'weights go h'", id="text"
        ),
        pytest.param(b"\x80\x02 and then noise", "cut short or damaged", id="pickle-cut"),
    ],
)
def test_what_people_save_by_mistake(path, data, match):
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=match):
        read_checkpoint(path)


def test_archives(path):
    torch.save(STATE, path.with_name("inner"))
    with tarfile.open(path, "w") as archive:
        archive.add(path.with_name("inner"), "inner")
    with pytest.raises(WeightsError, match="is a tar archive"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match=r"zip archive, but no checkpoint; it holds readme\.txt"):
        read_checkpoint(path)
    with open(path, "wb") as file:
        np.savez(file, a=np.ones(3))
    assert read_checkpoint(path).state["a"].tolist() == [1, 1, 1], "an .npz under any name"


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.995])
def test_cut_short_anywhere(path, form, share):
    if form == "safetensors":
        safetensors.torch.save_file(STATE, path)
    else:
        torch.save(WRAPPED, path, _use_new_zipfile_serialization=form == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(share * len(data)))])
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert any(word in str(caught.value) for word in ("cut short", "no checkpoint", "damaged"))


def test_flipped_bits_end_in_a_message_or_in_tensors(path):
    torch.save(WRAPPED, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    refused = 0
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        try:
            read_checkpoint(path)
        except WeightsError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1, 2], "holds a list"),
        (torch.ones(2), "holds a Tensor"),
        ({}, "it is empty"),
        ({"state_dict": [1]}, "'state_dict' is a list"),
        ({"epoch": 3, "model": STATE}, r"no state dictionary: epoch \(int\), model \(dict\)"),
        ({"a": torch.ones(1), "module.a": torch.ones(1)}, "holds a twice"),
    ],
)
def test_not_a_state_dictionary(path, content, match):
    torch.save(content, path)
    with pytest.raises(WeightsError, match=match):
        read_checkpoint(path)


def test_files_that_are_not_there(path):
    with pytest.raises(WeightsError, match="No such file"):
        read_checkpoint(path)
    with pytest.raises(WeightsError, match="Is a directory"):
        read_checkpoint(path.parent)
