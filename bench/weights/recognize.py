"""What a file is by its first bytes; what people save as a checkpoint is often something else."""

from __future__ import annotations

import re
from collections.abc import Sequence

HEAD = 1024
"""Bytes that are enough to recognize a file."""

_LONGEST_HEADER = 100_000_000
"""What safetensors itself allows."""
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--", b"<script")
_COMPRESSED = (b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd")
_ONNX = (b"pytorch", b"onnx", b"ONNX")
_ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".npz", ".tar")
_SHARD = re.compile(r"-(\d{1,9})-of-(\d{1,9})\.(?:safetensors|bin|pt|pth)")


def recognize(head: bytes) -> tuple[str, str] | None:
    """(what it is, what to do) for the first bytes of no checkpoint; None if it may be one."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "empty", "the download broke off before it began; fetch it again"
    if start.startswith(_PAGES):
        return (
            "a web page, not a checkpoint",
            "the link leads to a page; fetch the file behind its download button",
        )
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            "a Git LFS pointer, not the file itself",
            "run 'git lfs pull' in the repository it comes from",
        )
    if head[257:262] == b"ustar":
        return (
            "a tar archive",
            "unpack it and import the checkpoint inside "
            "('.pth.tar' files of torch are no tar archives)",
        )
    if head.startswith(b"\x1f\x8b"):
        return "compressed with gzip", "unpack it first (gzip -d, or tar -xzf)"
    if head.startswith(_COMPRESSED):
        return "a compressed archive", "unpack it first"
    if head.startswith((b"\x89HDF\r\n\x1a\n", b"\x93NUMPY")):
        return "an HDF5 or numpy file", "only torch, safetensors and .npz files can be imported"
    if head.startswith((b"GGUF", b"ggml", b"lmgg")):
        return "a GGUF file", "its weights are quantized; import the original torch checkpoint"
    if head.startswith(b"\x08") and any(one in head[:64] for one in _ONNX):
        return "an ONNX file, a program with its weights", "import the original torch checkpoint"
    if start.startswith((b"{", b"[")) and not is_safetensors(head):
        if b'"weight_map"' in head or (b'"metadata"' in head and b'"total_size"' in head):
            return (
                "the index of a checkpoint in several files, not the weights",
                "load all parts with the library that wrote them and save one state dictionary",
            )
        return "a JSON text", "a service may have answered with an error; look into it"
    return None


def recognize_part(name: str) -> str | None:
    """What a file is that is one of several by its name ("model-00001-of-00003.safetensors")."""
    if name.endswith(".distcp"):
        return "one file of a checkpoint that torch.distributed saved"
    match = _SHARD.search(name)
    if match and int(match[2]) > 1:
        return f"part {int(match[1])} of a checkpoint in {int(match[2])} files"
    return None


def recognize_folder(names: Sequence[str]) -> str:
    """What to do with a folder that is named in place of a checkpoint, by the files in it."""
    if ".metadata" in names:
        return (
            "a checkpoint of torch.distributed becomes one file by "
            "'python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE'"
        )
    files = sorted(name for name in names if name.endswith(_ENDINGS))
    if files:
        return f"name the file in it: {', '.join(files[:4])}{', …' if len(files) > 4 else ''}"
    return "name the file of the checkpoint; none is in this folder by its name"


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins with eight bytes of header length, whatever it is, then JSON."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    length = int.from_bytes(head[:8], "little")
    pickled = head.startswith((b"\x80", b"PK"))
    return 2 <= length <= _LONGEST_HEADER or (head[9:10] == b'"' and not pickled)
