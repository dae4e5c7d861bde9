import argparse
import datetime
import gzip
import io
import json
import math
import os
import pickle
import tarfile
import time
import tracemalloc
import types
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from decimal import Decimal
from functools import partial
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import safetensors.torch
import torch

from bench.errors import WeightsError
from bench.weights import checkpoint
from bench.weights.checkpoint import read_checkpoint
from bench.weights.pickles import Inert, stand_ins
from targets.pieces.matching import matching_state

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
        pytest.param(STATE, id="bare"),
        pytest.param(OrderedDict(STATE), id="ordered"),
        pytest.param(
            {"state_dict": STATE, "optimizer": torch.optim.SGD([torch.ones(1)]).state_dict()},
            id="training",
        ),
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
        pytest.param([1, 2], "holds a list", id="list"),
        pytest.param(torch.ones(2), "holds a Tensor", id="tensor"),
        pytest.param({}, "it is empty", id="empty"),
        pytest.param({"state_dict": [1]}, "'state_dict' is a list", id="wrapped-list"),
        pytest.param(
            {"epoch": 3, "actor": STATE}, "under a usual name, but actor", id="unusual-name"
        ),
        pytest.param(
            {"a": torch.ones(1), "module.a": torch.ones(1)}, "holds a twice", id="prefix-twice"
        ),
        pytest.param(
            {"a": torch.ones(1), "epoch": 3}, r"no state dictionary: epoch \(int\)", id="mixed"
        ),
        pytest.param(
            {"optimizer": {"state": {0: {"step": torch.ones(1)}}}},
            "the state of an optimizer and no network's",
            id="optimizer",
        ),
        pytest.param(
            {"a.weight": torch.ones(2, device="meta")}, "without numbers, on the meta", id="meta"
        ),
    ],
)
def test_not_a_state_dictionary(path, content, match):
    torch.save(content, path)
    with pytest.raises(WeightsError, match=match):
        read_checkpoint(path)


WRAPPED_AS = {
    "model": {"model": STATE, "epoch": 3},
    "model_state_dict": {"model_state_dict": STATE, "optimizer_state_dict": {"state": {}}},
    "net": {"net": STATE, "acc": 93.1},
    "params": {"params": STATE},
    "nested": {"checkpoint": {"model": {"state_dict": STATE}}},
    "with-ema": {"state_dict": STATE, "state_dict_ema": {k: v + 1 for k, v in STATE.items()}},
    "ema-alone": {"ema": STATE, "epoch": 1},
    "same-twice": {"model": STATE, "state_dict": dict(STATE)},
    "extra-state": {"model": {**STATE, "_extra_state": None}},
}


@pytest.mark.parametrize("content", WRAPPED_AS.values(), ids=WRAPPED_AS)
def test_states_under_the_names_that_trainers_use(path, content):
    torch.save(content, path)
    assert same(read_checkpoint(path).state)


def test_what_was_left_out_is_said_and_can_be_chosen(path):
    averaged = {f"module.{key}": value + 1 for key, value in STATE.items()}
    content = {
        "model": STATE,
        "model_ema": averaged,
        "optimizer": {"state": {}, "param_groups": []},
        "args": argparse.Namespace(lr=1),
        "epoch": 7,
    }
    torch.save(content, path)
    found = read_checkpoint(path)
    assert same(found.state)
    assert found.facts == {"epoch": 7}
    assert found.left_out == (
        "model_ema (a running average, 2 tensors)",
        "optimizer (dict)",
        "args (Namespace)",
    )
    chosen = read_checkpoint(path, part="model_ema")
    assert torch.equal(chosen.state["fc.bias"], STATE["fc.bias"] + 1)
    assert chosen.left_out[0] == "model (another state, 2 tensors)"
    with pytest.raises(WeightsError, match=r"holds no part 'model_em'; it holds model, model_ema"):
        read_checkpoint(path, part="model_em")


def test_of_several_states_the_one_that_fits_is_taken(path):
    other = {"conv.weight": torch.ones(1)}
    torch.save({"generator": STATE, "discriminator": other}, path)
    with pytest.raises(WeightsError, match="more than one state dictionary: generator, discrim"):
        read_checkpoint(path)
    found = read_checkpoint(path, fits=lambda state: state.keys() == STATE.keys())
    assert same(found.state)
    assert found.left_out == ("discriminator (another state, 1 tensors)",)
    with pytest.raises(WeightsError, match="more than one") as caught:
        read_checkpoint(path, fits=lambda state: False)
    assert "--part" in str(caught.value)


PREFIXES = ("_orig_mod.", "module.", "model.", "module._orig_mod.", "_orig_mod.module.model.",
            "model.module.module.", "model._fsdp_wrapped_module.")  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_prefixes_of_wrappers_in_any_order(path, prefix, form):
    named = {prefix + key: value for key, value in STATE.items()}
    if form == "torch":
        torch.save({"state_dict": named}, path)
    else:
        safetensors.torch.save_file(named, path)
    assert same(read_checkpoint(path).state)


def test_prefixes_that_belong_to_the_network_are_kept(path):
    own = {f"model.{key}": value for key, value in STATE.items()}
    torch.save({f"_orig_mod.module.{key}": value for key, value in own.items()}, path)
    found = read_checkpoint(path, fits=lambda state: state.keys() == own.keys())
    assert found.state.keys() == own.keys()


def test_compiled_blocks_and_averaged_models(path):
    torch.save(
        {
            "n_averaged": torch.tensor(5),
            "module.fc._orig_mod.weight": STATE["fc.weight"],
            "module.fc._orig_mod.bias": STATE["fc.bias"],
        },
        path,
    )
    found = read_checkpoint(path)
    assert same(found.state)
    assert found.left_out == ("n_averaged (a counter of averaging)",)


INERT = {
    "namespace": argparse.Namespace(lr=0.1, out=Path("x")),
    "simple-namespace": types.SimpleNamespace(lr=0.1),
    "path": Path("a/b"),
    "pure-windows-path": PureWindowsPath("c:/a"),
    "date": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    "duration": datetime.timedelta(seconds=1),
    "array": np.arange(5.0),
    "array-of-objects": np.array([Path("x"), None], dtype=object),
    "set": {1, 2},
    "defaultdict": defaultdict(list, a=[1]),
    "ordered": OrderedDict(a=1),
    "decimal": Decimal("1.5"),
    "complex": 1j,
    "random-state": np.random.default_rng(0).bit_generator.state,
    "nested": {"config": argparse.Namespace(paths=[Path("x")], when=datetime.date(2020, 1, 1))},
}


@pytest.mark.parametrize("value", INERT.values(), ids=INERT)
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_inert_objects_beside_the_weights(path, value, new):
    content = {"state_dict": STATE, "extra": value, "best": np.float32(1.5), "n": np.int64(3)}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    found = read_checkpoint(path)
    assert same(found.state)
    assert found.facts == {"best": 1.5, "n": 3}


def test_stand_ins_run_nothing_and_keep_nothing(path, monkeypatch):
    for kind in (argparse.Namespace, types.SimpleNamespace):
        torch.save({"model": STATE, "args": kind(a=1)}, path)
        content = checkpoint._read_torch(path, path.read_bytes()[:1024])
        assert isinstance(content["args"], Inert)
        assert not vars(content["args"])
    named = {name for _, name in stand_ins()}
    for name in ("builtins.getattr", "builtins.eval", "os.system", "functools.partial"):
        assert name not in named


def test_a_call_hidden_in_an_inert_object_does_not_run(path):
    torch.save({"state_dict": STATE, "args": argparse.Namespace(x=evil(path))}, path)
    with pytest.raises(WeightsError, match=r"wants to run (posix|nt)\.system"):
        read_checkpoint(path)
    assert not (path.parent / "ran").exists()


@pytest.mark.parametrize(
    ("value", "match"),
    [
        pytest.param(torch.ones(2, 3, dtype=torch.int8), "torch.int8", id="int8"),
        pytest.param(torch.ones(2, 3).to(torch.float8_e4m3fn), "torch.float8_e4m3fn", id="float8"),
        pytest.param(torch.ones(2, 3, dtype=torch.complex64), "torch.complex64", id="complex"),
        pytest.param(torch.ones(2, 3).to_sparse(), "sparse torch.float32", id="sparse"),
    ],
)
def test_lossy_types_are_refused(path, value, match):
    torch.save({"fc.weight": value}, path)
    with pytest.raises(WeightsError, match=match):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "kind", [torch.int16, torch.int32, torch.int64, torch.bool], ids=lambda kind: str(kind)[6:]
)
def test_weights_that_were_rounded_to_whole_numbers_are_refused(path, kind):
    """They would load, as zeros and ones."""
    torch.save({"fc.weight": torch.ones(2, 3, dtype=kind), "n": torch.tensor(3)}, path)
    with pytest.raises(WeightsError, match=f"fc.weight .{kind}"):
        read_checkpoint(path)


def test_biases_that_were_rounded_to_whole_numbers_are_refused():
    build = partial(torch.nn.Linear, 3, 2)
    given = {"weight": torch.ones(2, 3), "bias": torch.ones(2, dtype=torch.int64)}
    with pytest.raises(WeightsError, match=r"rounded: bias is torch\.int64, expected torch\.float"):
        matching_state(given, build, {}, "Linear", [])
    state = matching_state({**given, "bias": torch.ones(2).half()}, build, {}, "Linear", [])
    assert state["bias"].dtype == torch.float32


def test_a_file_larger_than_memory_is_refused(path):
    """A file with a hole of 8 TB."""
    with open(path, "wb") as file:
        file.write(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
        file.truncate(2**43)
    with pytest.raises(WeightsError, match="8,796,093,022,208 bytes, more than fit into memory"):
        read_checkpoint(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_or_a_device_is_no_checkpoint(path):
    os.mkfifo(path)
    with pytest.raises(WeightsError, match="no regular file"):
        read_checkpoint(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(WeightsError, match="no regular file"):
        read_checkpoint(path)


def test_quantized_tensors_are_refused(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8)
        torch.save({"fc.weight": quantized}, path)
    with pytest.raises(WeightsError, match=r"torch\.qint8"):
        read_checkpoint(path)


def test_masks_and_half_precision_are_no_loss(path):
    kept = {
        "mask": torch.ones(2, 2, dtype=torch.uint8),
        "n": torch.tensor(3),
        "half.weight": torch.ones(2, 2, dtype=torch.float16),
    }
    torch.save(kept, path)
    assert read_checkpoint(path).state.keys() == kept.keys()


def test_files_that_are_parts_of_others_are_named(path):
    index = (
        b'{"metadata": {"total_size": 5}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    )
    path.with_name("model.safetensors.index.json").write_bytes(index)
    with pytest.raises(WeightsError, match="the index of a checkpoint in several files"):
        read_checkpoint(path.with_name("model.safetensors.index.json"))
    part = path.with_name("model-00001-of-00002.safetensors")
    safetensors.torch.save_file(STATE, part)
    with pytest.raises(WeightsError, match="is part 1 of a checkpoint in 2 files"):
        read_checkpoint(part)
    whole = part.rename(path.with_name("model-00001-of-00001.safetensors"))
    assert same(read_checkpoint(whole).state)


def zipped(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def header_of(shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def claims_npz_shape(path):
    zipped(path, {"a.npy": header_of((10**9, 10**3)) + bytes(16)})


def claims_npz_bomb(path):
    zipped(path, {"a.npy": header_of((300 * 2**20 // 4,)) + bytes(300 * 2**20)})


def claims_zip_size(path):
    torch.save(STATE, path)
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = (2**31).to_bytes(4, "little")
    path.write_bytes(data)


def claims_zip_bomb(path):
    zipped(path, {"a/data.pkl": bytes(300 * 2**20)})


def claims_header(path):
    path.write_bytes((2**60).to_bytes(8, "little") + b'{"a": 1}')


def claims_legacy(path):
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    count = b"K\x06N"  # BININT1 6, NONE: the six numbers of fc.weight
    assert data.count(count) == 1
    path.write_bytes(data.replace(count, b"J" + (2**31 - 1).to_bytes(4, "little") + b"N"))


def claims_views(path):
    torch.save({"a": torch.zeros(1).expand(2**31)}, path)


CLAIMS = (claims_npz_shape, claims_npz_bomb, claims_zip_size, claims_zip_bomb, claims_header,
          claims_legacy, claims_views)  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_archives_that_claim_more_than_they_hold(path, claim):
    claim(path)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=r"claims|unpacks to"):
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 60 * 2**20
    finally:
        tracemalloc.stop()


def test_zip_archives_of_other_kinds_are_refused(path):
    zipped(path, {"a/data.pkl": b"x"}, zipfile.ZIP_BZIP2)
    with pytest.raises(WeightsError, match="packed in a way that no checkpoint is"):
        read_checkpoint(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", b"x")
            archive.writestr("a/data.pkl", b"y")
    with pytest.raises(WeightsError, match="holds a file twice"):
        read_checkpoint(path)


def test_a_text_wants_to_run_nothing(path):
    """The second letter of a plan, "c", names a class in a pickle of protocol 0."""
    path.write_text("schema = 1\n[protocol]\n")
    with pytest.raises(WeightsError, match="is no checkpoint: it begins with b'schema"):
        read_checkpoint(path)
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(WeightsError, match=r"wants to run os\.system"):
        read_checkpoint(path)


def test_numbers_of_an_npz_that_float32_does_not_hold(path):
    """Warnings are errors here: numpy's own would stand above the message."""
    with open(path, "wb") as file:
        np.savez(file, a=np.array([1e300, 1.0]))
    assert read_checkpoint(path).state["a"].tolist() == [math.inf, 1.0]


def test_big_endian_arrays_of_an_npz(path):
    with open(path, "wb") as file:
        np.savez(file, a=np.array([1.5], ">f8"), b=np.array([3], ">i4"))
    found = read_checkpoint(path).state
    assert (found["a"].item(), found["b"].item()) == (1.5, 3)


def test_files_that_are_not_there(path):
    with pytest.raises(WeightsError, match="No such file"):
        read_checkpoint(path)
    with pytest.raises(WeightsError, match="Is a directory"):
        read_checkpoint(path.parent)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_newer_protocols(path, protocol, new):
    content = {
        **WRAPPED,
        "args": argparse.Namespace(lr=1, path=Path("x")),
        "data": b"\x00\xff" * 200,
    }
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    found = read_checkpoint(path)
    assert same(found.state)
    assert found.facts == {"iter": 5, "arch": "skip", "best_prec1": pytest.approx(93.3)}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [0, 1])
def test_pickles_of_older_protocols_are_named(path, protocol, new):
    torch.save(STATE, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    with pytest.raises(WeightsError, match="was saved with pickle protocol 0 or 1") as caught:
        read_checkpoint(path)
    assert "torch.save, without pickle_protocol" in caught.value.hint


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_an_evil_pickle_of_a_newer_protocol_does_not_run(path, form):
    content = {"state_dict": STATE, "a": evil(path), "b": evil(path)}
    torch.save(content, path, pickle_protocol=4, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(WeightsError, match=r"wants to run (posix|nt)\.system"):
        read_checkpoint(path)
    assert not (path.parent / "ran").exists()


def test_a_pickle_of_arrays_is_named_for_what_it_is(path):
    path.write_bytes(pickle.dumps({"model": {"a": np.ones(3)}}, protocol=4))
    with pytest.raises(WeightsError, match="is a pickle, but not one of torch"):
        read_checkpoint(path)
    torch.save({"state_dict": {"a": np.ones(3)}}, path)
    with pytest.raises(WeightsError, match=r"no state dictionary: a \(numpy array\)"):
        read_checkpoint(path)


def test_a_flipped_bit_in_an_archive_is_no_weight(path):
    torch.save(STATE, path)
    data = bytearray(path.read_bytes())
    place = data.index(np.arange(6, dtype="<f4").tobytes())
    data[place + 7] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"is damaged: '.*data/\d': Bad CRC-32"):
        read_checkpoint(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_archives_without_check_sums(path, protocol):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, path, pickle_protocol=protocol)
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(read_checkpoint(path).state)


def test_programs_with_weights_are_named_for_what_they_are(path):
    zipped(path, {"a/data.pkl": b"x", "a/code/__torch__.py": b"x", "a/constants.pkl": b"x"})
    with pytest.raises(WeightsError, match=r"is a TorchScript archive.*was not run") as caught:
        read_checkpoint(path)
    assert "torch.jit.load(FILE).state_dict()" in caught.value.hint
    zipped(path, {"a/archive_format": b"pt2", "a/data/weights/weight_0": b"x"})
    with pytest.raises(WeightsError, match=r"a program that torch\.export saved"):
        read_checkpoint(path)
    path.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:" + bytes(60))
    with pytest.raises(WeightsError, match="an ONNX file"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        pytest.param(["config.json", "model.safetensors"], "in it: model.safetensors", id="hub"),
        pytest.param([".metadata", "__0_0.distcp"], "dcp_to_torch", id="distributed"),
        pytest.param(["config.json"], "none is in this folder", id="nothing"),
    ],
)
def test_folders_in_place_of_a_file(tmp_path, files, hint):
    for file in files:
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(WeightsError, match="Is a directory") as caught:
        read_checkpoint(tmp_path)
    assert hint in caught.value.hint


@pytest.mark.parametrize("kind", ["F4", "F8_E8M0", "F6_E2M3", "E8M0"])
def test_packed_types_of_safetensors_are_named(path, kind):
    tensor = {"dtype": kind, "shape": [1, 2], "data_offsets": [0, 2]}
    text = json.dumps({"__metadata__": {"format": "pt"}, "a.weight": tensor}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(2))
    with pytest.raises(WeightsError, match=rf"trained to: a\.weight \({kind}\)"):
        read_checkpoint(path)


def fits(state):
    return state.keys() == STATE.keys()


def below(prefix, more=0):
    return {f"{prefix}{key}": value + more for key, value in STATE.items()}


INSIDE = {
    "lightning": ({"state_dict": {**below("net."), "loss.weight": torch.ones(1)}}, "loss (1 tensors)"),
    "base-model": (below("backbone."), None),
    "average": ({**below("model."), **below("ema.", 1)}, "ema (a running average, 2 tensors)"),
    "wrapped": (
        {"state_dict": {**below("module.encoder."), "module.queue": torch.ones(1)}},
        "module.queue (1 tensors)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INSIDE.values(), ids=INSIDE)
def test_a_network_inside_a_state_is_found_where_it_fits(path, case):
    content, left = case
    torch.save(content, path)
    found = read_checkpoint(path, fits=fits)
    assert same(found.state)
    assert found.left_out == ((left,) if left else ())


def test_of_two_networks_inside_a_state_nobody_is_guessed(path):
    torch.save({"state_dict": {**below("student."), **below("teacher.", 1)}}, path)
    with pytest.raises(WeightsError, match="holds more than one network: student, teacher"):
        read_checkpoint(path, fits=fits)
    found = read_checkpoint(path, part="teacher", fits=fits)
    assert torch.equal(found.state["fc.bias"], STATE["fc.bias"] + 1)
    assert found.left_out == ("student (2 tensors)",)
    assert same(read_checkpoint(path, part="state_dict.student").state)


def test_an_optimizer_is_left_out_in_one_line(path):
    network = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(9)))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save({"model": STATE, "optimizer": optimizer.state_dict(), "epoch": 1}, path)
    assert read_checkpoint(path).left_out == ("optimizer (dict)",)
    with pytest.raises(WeightsError, match=r"no part 'x'; it holds model$"):
        read_checkpoint(path, part="x")


def test_names_that_are_one_as_text_are_refused(path):
    torch.save({1: torch.ones(2), "1": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="two tensors under the name '1'"):
        read_checkpoint(path)


DOTTED = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}
OTHER = {key: value + 1 for key, value in DOTTED.items()}
FLAT = {
    "number": ({"epoch": 3}, [], {"epoch": 3}),
    "average": ({"ema": OTHER}, ["ema (a running average, 2 tensors)"], {}),
    "optimizer": (
        {"optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        ["optimizer (dict)"],
        {},
    ),
}


@pytest.mark.parametrize(("beside", "left", "facts"), FLAT.values(), ids=FLAT)
def test_tensors_beside_what_trainers_note_are_the_state(path, beside, left, facts):
    """The average was taken in their place, and nobody was told."""
    torch.save({**DOTTED, **beside}, path)
    found = read_checkpoint(path, fits=lambda state: state.keys() == DOTTED.keys())
    assert found.state.keys() == DOTTED.keys()
    assert all(torch.equal(found.state[key], DOTTED[key]) for key in DOTTED)
    assert (list(found.left_out), found.facts) == (left, facts)


def test_of_tensors_and_a_state_beside_them_nobody_is_guessed(path):
    torch.save({**DOTTED, "model": OTHER}, path)
    with pytest.raises(WeightsError, match="more than one state dictionary: tensors beside, model"):
        read_checkpoint(path, fits=lambda state: state.keys() == DOTTED.keys())
    torch.save({**DOTTED, **{f"teacher.{key}": value for key, value in OTHER.items()}}, path)
    with pytest.raises(WeightsError, match="more than one network: teacher, and one beside"):
        read_checkpoint(path, fits=lambda state: state.keys() == DOTTED.keys())


def test_many_names_and_long_ones_end(path):
    """Time grew with the square of either; minutes of a file of a large model."""
    state = {f"x{number}.conv.weight": torch.ones(1) for number in range(3000)}
    torch.save({**state, "a" + ".b" * 3000: torch.ones(1)}, path)
    asked = []
    begun = time.process_time()
    read_checkpoint(path, fits=lambda state: asked.append(len(state)) or False)
    assert time.process_time() - begun < 5
    assert sum(asked) < 10 * len(state)
