"""Whatever lies in a weights file: tensors or one message, and nothing of it runs."""

import argparse
import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import fuzz
import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.cli.weights import weights
from bench.errors import GatebenchError, WeightsError
from bench.weights.checkpoint import Checkpoint, read_checkpoint
from bench.weights.manifest import read_manifest

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}
CONTENT = {
    "model": OrderedDict((f"module.{key}", value) for key, value in STATE.items()),
    "model_ema": STATE,
    "args": argparse.Namespace(lr=0.1, out=Path("x")),
    "best": np.float64(3),
    "history": np.arange(3),
    "epoch": 3,
}


class Evil:
    def __reduce__(self):
        return fuzz.touch, ("ran",)


def saved(content, new=True, protocol=2):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    return buffer.getvalue()


def packed(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


FILES = (
    saved(CONTENT),
    saved(CONTENT, new=False),
    saved({"state_dict": STATE, "x": Evil()}),
    saved({"state_dict": STATE, "x": Evil()}, new=False),
    saved(CONTENT, protocol=4),
    saved({"state_dict": STATE, "x": Evil()}, new=False, protocol=5),
    safetensors.torch.save(STATE),
    packed(a=np.ones((3, 3), np.float32), b=np.arange(4)),
    pickle.dumps(CONTENT, protocol=4),
    pickle.dumps({"a": Evil()}, protocol=0),
)


def holds_or_is_refused(path):
    """The property: a checkpoint of tensors, or a WeightsError of one message that names the file."""
    with fuzz.nothing_runs():
        found, refusal = None, ""
        try:
            found = read_checkpoint(path)
        except WeightsError as error:
            refusal = error.message
    if found is None:
        assert str(path) in refusal
        return
    assert isinstance(found, Checkpoint)
    assert all(isinstance(value, torch.Tensor) for value in found.state.values())
    assert all(isinstance(value, (str, int, float)) for value in found.facts.values())


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "net.pth"


@fuzz.fuzzed(100)
@given(data=fuzz.mutated(FILES))
def test_edited_files(path, data):
    path.write_bytes(data)
    holds_or_is_refused(path)


OPCODES = [
    getattr(pickle, name) for name in dir(pickle) if isinstance(getattr(pickle, name), bytes)
]
OPCODES = [code for code in OPCODES if len(code) == 1]
NAMES = (
    "fuzz touch", "os system", "builtins eval", "torch FloatStorage", "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2", "argparse Namespace", "numpy dtype", "builtins getattr",
    "numpy.core.multiarray scalar", "numpy.core.multiarray _reconstruct", "copyreg _reconstructor",
    "torch.nn.parameter Parameter", "torch.storage _load_from_bytes", "torch.jit.load x",
)  # fmt: skip
ARGUMENTS = st.one_of(
    st.sampled_from([b"c" + name.replace(" ", "\n").encode() + b"\n" for name in NAMES]),
    st.sampled_from([b"}", b"]", b")", b"(", b"N", b"K\x01", b"M\xff\xff", b"J\xff\xff\xff\x7f"]),
    st.binary(max_size=6).map(lambda text: b"X" + struct.pack("<I", len(text)) + text),
    st.integers(0, 3).map(lambda place: b"q" + bytes([place])),
    st.integers(0, 3).map(lambda place: b"h" + bytes([place])),
    st.sampled_from([b"R", b"b", b"\x81", b"t", b"\x85", b"\x86", b"\x87", b"u", b"s", b"Q", b"a"]),
    st.sampled_from(OPCODES),
)


def in_zip(pickled, **others):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("net/data.pkl", pickled)
        archive.writestr("net/version", "3\n")
        archive.writestr("net/data/0", bytes(24))
        for name, data in others.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@fuzz.fuzzed(100)
@given(pieces=st.lists(ARGUMENTS, max_size=24), zipped=st.booleans())
def test_pickles_of_any_opcodes(path, pieces, zipped):
    pickled = b"\x80\x02" + b"".join(pieces) + b"."
    path.write_bytes(in_zip(pickled) if zipped else saved({}, new=False)[:-40] + pickled)
    holds_or_is_refused(path)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-1, 2**64), st.floats(), st.text(max_size=8),
        st.sampled_from(["F32", "F8_E4M3", "BF16", "I64", "dtype", "shape", "data_offsets"]),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(
            ["F32", "F64", "BF16", "F16", "I8", "U8", "BOOL", "F8_E5M2", "C64"]
        ),
        "shape": st.lists(st.sampled_from([0, 1, 2, 3, 2**31, 2**62]), max_size=4) | JSON,
        "data_offsets": st.lists(st.sampled_from([0, 4, 8, 24, 2**40]), max_size=3) | JSON,
    },
)


@fuzz.fuzzed(100)
@given(
    header=st.dictionaries(st.text(max_size=10), ENTRIES | JSON, max_size=4),
    body=st.binary(max_size=32),
    length=st.none() | st.integers(0, 2**64 - 1),
)
def test_safetensors_of_any_header(path, header, body, length):
    text = json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + body)
    holds_or_is_refused(path)


@fuzz.fuzzed(100)
@given(
    members=st.dictionaries(
        st.sampled_from(
            ["a.npy", "b.npy", "net/data.pkl", "data.pkl", "../x.npy", "net/data/0", "é"]
        ),
        st.binary(max_size=40) | fuzz.mutated([pickle.dumps(1, 2), packed(a=np.ones(2))[60:200]]),
        max_size=4,
    ),
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]),
    shape=st.lists(st.sampled_from([0, 1, 3, 2**20, 2**40, -1]), max_size=4),
    kind=st.sampled_from(["<f4", ">f8", "|O", "<c8", "|i1", "<U4", "<M8[s]", "|V4", "<f2"]),
)
def test_archives_of_any_members(path, members, method, shape, kind):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": kind, "fortran_order": False, "shape": tuple(shape)}
    )
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr("c.npy", header.getvalue() + bytes(12))
    holds_or_is_refused(path)


KEYS = st.sampled_from(["state_dict", "model", "ema", "module.a", "a", "epoch", "_extra_state"])
VALUES = st.recursive(
    st.one_of(
        st.none(), st.integers(), st.floats(), st.text(max_size=300), st.binary(max_size=4),
        st.sampled_from([torch.ones(2), torch.ones(2, 2, dtype=torch.int8), torch.zeros(()),
                         torch.ones(1, dtype=torch.complex64), argparse.Namespace(a=1), Path("x")]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(0, 3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@fuzz.fuzzed(100)
@given(content=VALUES, new=st.booleans())
def test_checkpoints_of_any_shape(path, content, new):
    path.write_bytes(saved(content, new))
    holds_or_is_refused(path)


@fuzz.fuzzed(6)
@given(data=fuzz.mutated(FILES))
def test_the_command_ends_with_a_documented_exit_code(path, tmp_path_factory, data):
    path.write_bytes(data)
    arguments = ["import", str(path), "--target", "resnet", "--set", "depth=8", "--as", "net"]
    result = CliRunner().invoke(weights, arguments)
    assert isinstance(result.exception, GatebenchError), result.exception
    assert result.exception.exit_code == 3


TABLES = b"""
[net]
file = "net.safetensors"
sha256 = "00"
target = "resnet"
bytes = 12
accuracy = 0.5
params = { depth = 8 }
opening_rates = [0.5, 1.0]
"""


@fuzz.fuzzed(80)
@given(data=fuzz.mutated([TABLES]) | st.binary(max_size=80))
def test_manifests_of_any_bytes(path, data):
    (path.parent / "manifest.toml").write_bytes(data)
    entries, refusal = {}, "manifest.toml"
    try:
        entries = read_manifest(path.parent)
    except WeightsError as error:
        refusal = error.message
    assert "manifest.toml" in refusal
    assert all(entry.name == name for name, entry in entries.items())
