"""Reading other people's checkpoints: tensors and plain numbers, and nothing that could run.

The first bytes of a file decide what a message says, since what people save as a checkpoint is often a web page, an
archive or a pointer.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor


_HEAD = 1024
_NEEDS_CODE = "gatebench runs no code from a checkpoint: save its state_dict alone (torch.save(model.state_dict(), …)) and import that"

_HARMLESS = re.compile(
    r"collections\.OrderedDict|_codecs\.encode|torch(\.\w+)?\.\w+(Storage|Tensor)|torch\.\w+|torch\._utils\._rebuild_\w+"
    r"|torch\.nn\.parameter\.Parameter|numpy\.dtype|numpy\.dtypes\.\w+|numpy\._?core\.multiarray\.scalar"
)
"""Globals that a state dictionary may name; what torch refuses beyond these is blamed in its own words."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file held: tensors by name (without `module.`), and the plain values beside them (epoch, arch, accuracy)."""

    state: dict[str, Tensor]
    facts: dict[str, str | int | float]


def read_checkpoint(path: Path) -> Checkpoint:
    """Tensors from a torch (`.pth`, `.pth.tar`, old or new format), safetensors or numpy (`.npz`) file, on the CPU.

    Floating-point arrays of an .npz become float32. Torch files are read with `weights_only=True`, numpy scalars allowed;
    a wrapper `{state_dict: …}` is opened and the prefix `module.` dropped.

    Raises:
        WeightsError: it is not there, is not a checkpoint (and what it is instead), is cut short, wants to run code
            (naming what), or holds something else than tensors.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from error
    impostor = recognise(head)
    if impostor:
        raise WeightsError(f"{path} is {impostor[0]}", hint=impostor[1])
    if _is_safetensors(head):
        return Checkpoint(_read_safetensors(path), {})
    if head.startswith(b"PK") and _is_npz(path):
        return Checkpoint(_read_npz(path), {})
    return _unwrap(_read_torch(path, head), path)


def recognise(head: bytes) -> tuple[str, str] | None:
    """(what it is, what to do) for the first bytes of a file that is no checkpoint, None if it may be one."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "empty", "the download broke off before it began; fetch it again"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--", b"<script")):
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
            "unpack it and import the checkpoint inside ('.pth.tar' files of torch are no tar archives)",
        )
    if head.startswith(b"\x1f\x8b"):
        return "compressed with gzip", "unpack it first (gzip -d, or tar -xzf)"
    if head.startswith(
        (b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd")
    ):
        return "a compressed archive", "unpack it first"
    if head.startswith((b"\x89HDF\r\n\x1a\n", b"\x93NUMPY")):
        return "an HDF5 or numpy file", "only torch, safetensors and .npz files can be imported"
    if start.startswith((b"{", b"[")) and not _is_safetensors(head):
        return "a JSON text", "a service may have answered with an error; look into it"
    return None


def _is_safetensors(head: bytes) -> bool:
    """Eight bytes of header length, then a JSON object."""
    return (
        len(head) > 9
        and head[8:9] == b"{"
        and 2 <= int.from_bytes(head[:8], "little") <= 100_000_000
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    import safetensors.torch

    try:
        found = safetensors.torch.load(path.read_bytes())
    except Exception as error:  # safetensors raises a class of its own, and others for odd headers
        raise WeightsError(
            f"{path} is a damaged safetensors file: {error}",
            hint="it may be cut short; fetch it again",
        ) from error
    return {name.removeprefix("module."): value for name, value in found.items()}


def _is_npz(path: Path) -> bool:
    """A zip archive of arrays and nothing else."""
    names = _names_in_zip(path)
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays by name; nothing is unpickled."""
    import numpy as np
    import torch

    found: dict[str, Tensor] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                array = archive[name]
                if array.dtype.kind not in "fiub":
                    raise WeightsError(
                        f"{path}: {name!r} holds {array.dtype}, not numbers",
                        hint="export the variables alone",
                    )
                found[name] = torch.from_numpy(
                    array.astype(np.float32) if array.dtype.kind == "f" else array
                )
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise WeightsError(
                f"{path}: {name!r} holds objects, not numbers", hint=_NEEDS_CODE
            ) from error
        raise WeightsError(
            f"{path} is damaged: {error}", hint="it may be cut short; fetch it again"
        ) from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, TypeError) as error:
        raise WeightsError(
            f"{path} is damaged: {error}", hint="it may be cut short; fetch it again"
        ) from error
    return found


def _read_torch(path: Path, head: bytes) -> Any:
    import numpy as np
    import torch

    if head.startswith(b"PK"):
        _check_zip(path)
    elif not head.startswith(b"\x80"):
        blamed = _forbidden(path).name
        if blamed:
            raise WeightsError(
                f"{path} wants to run {blamed}, which no weights need; it was not run",
                hint=_NEEDS_CODE,
            )
        raise WeightsError(
            f"{path} is no checkpoint: it begins with {head[:12]!r}",
            hint="torch, safetensors and .npz files can be imported",
        )
    scalar = np.float64(0).__reduce__()[0]
    numbers: list[Any] = [
        np.dtype,
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
        *(type(np.dtype(code)) for code in "efdilqILQ?"),
    ]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(numbers):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of a damaged or hostile file
        raise _refusal(path, error) from error


def _check_zip(path: Path) -> None:
    """Torch's newer format is a zip archive with a `data.pkl` in it."""
    names = _names_in_zip(path)
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return
    shown = ", ".join(names[:5]) or "nothing"
    raise WeightsError(
        f"{path} is a zip archive, but no checkpoint; it holds {shown}",
        hint="unpack it and import the checkpoint inside",
    )


def _names_in_zip(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise WeightsError(
            f"{path} is cut short: the end of the archive is missing",
            hint="the download broke off; fetch it again",
        ) from error


def _refusal(path: Path, error: Exception) -> WeightsError:
    """The message for a file that torch refused."""
    found = _forbidden(path)
    if found.name:
        return WeightsError(
            f"{path} wants to run {found.name}, which no weights need; it was not run",
            hint=_NEEDS_CODE,
        )
    text = str(error).strip()
    if not found.whole or isinstance(error, EOFError) or "EOF" in text:
        return WeightsError(
            f"{path} is cut short or damaged",
            hint="the download may have broken off; fetch it again",
        )
    reason = text.splitlines()[0][:200] if text else type(error).__name__
    return WeightsError(
        f"{path} is damaged, or holds more than tensors: {reason}", hint=_NEEDS_CODE
    )


class _Scan(NamedTuple):
    """The first global of a pickle that weights do not need ("" if none), and whether the pickle is whole."""

    name: str
    whole: bool


def _forbidden(path: Path) -> _Scan:
    """Look through the opcodes of a torch file without executing any."""
    data = path.read_bytes()
    if data.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                inside = [
                    name
                    for name in archive.namelist()
                    if name == "data.pkl" or name.endswith("/data.pkl")
                ]
                return _scan(io.BytesIO(archive.read(inside[0])), pickles=1)
        except (
            zipfile.BadZipFile,
            zlib.error,
            OSError,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ):
            return _Scan("", False)
    return _scan(io.BytesIO(data), pickles=5)


def _scan(stream: io.BytesIO, pickles: int) -> _Scan:
    """Torch's older format is five pickles in a row (magic number, protocol, system, object, storage keys), then raw numbers."""
    for number in range(pickles):
        if number and stream.tell() == len(stream.getbuffer()):
            return _Scan("", True)
        strings: list[str] = []
        try:
            for opcode, argument, _position in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST") and not _HARMLESS.fullmatch(
                    name := str(argument).replace(" ", ".")
                ):
                    return _Scan(name, True)
                if opcode.name == "STACK_GLOBAL" and not _HARMLESS.fullmatch(
                    name := ".".join(strings[-2:])
                ):
                    return _Scan(name, True)
                if isinstance(argument, str):
                    strings.append(argument)
        except Exception:  # genops raises many kinds on bytes that are no pickle
            return _Scan("", False)
    return _Scan("", True)


def _unwrap(found: Any, path: Path) -> Checkpoint:
    """The state dictionary inside whatever was saved around it."""
    import torch

    if not isinstance(found, Mapping):
        raise WeightsError(f"{path} holds a {type(found).__name__}, not a dictionary of tensors")
    inner = found.get("state_dict", found)
    if not isinstance(inner, Mapping):
        raise WeightsError(
            f"{path}: its 'state_dict' is a {type(inner).__name__}, not a dictionary of tensors"
        )
    strangers = [
        f"{name} ({type(value).__name__})"
        for name, value in inner.items()
        if not isinstance(value, torch.Tensor)
    ]
    if strangers or not inner:
        shown = ", ".join(strangers[:10]) or "it is empty"
        raise WeightsError(
            f"{path} is no state dictionary: {shown}",
            hint="expected tensors by name, or a wrapper with 'state_dict'",
        )
    state: dict[str, Tensor] = {}
    for name, value in inner.items():
        plain = str(name).removeprefix("module.")
        if plain in state:
            raise WeightsError(f"{path} holds {plain} twice, with and without 'module.'")
        state[plain] = value.detach()
    return Checkpoint(state, {} if inner is found else _facts(found))


def _facts(wrapper: Mapping[Any, Any]) -> dict[str, str | int | float]:
    """Plain values beside the state dictionary."""
    facts: dict[str, str | int | float] = {}
    for name, value in wrapper.items():
        single = getattr(value, "item", None)  # numpy scalars and tensors of one element
        try:
            plain = single() if single else value
        except (ValueError, RuntimeError):
            continue
        if isinstance(plain, (str, int, float)):
            facts[str(name)] = plain
    return facts
