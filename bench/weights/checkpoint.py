"""Reading other people's checkpoints: tensors and plain numbers, and nothing that could run."""

from __future__ import annotations

import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import WeightsError
from bench.files.regular import check_regular
from bench.weights import archives
from bench.weights.pickles import Scan, scan, stand_ins
from bench.weights.protocols import MAGIC, PLAIN_MAGIC, for_torch
from bench.weights.recognize import (
    HEAD,
    is_safetensors,
    recognize,
    recognize_folder,
    recognize_part,
)
from bench.weights.states import Fits, Found, check_types, find_state

if TYPE_CHECKING:
    from torch import Tensor

_NEEDS_CODE = (
    "gatebench runs no code from a checkpoint: save its state_dict alone "
    "(torch.save(model.state_dict(), …)) and import that"
)

_DOTTED = re.compile(r"\w+(\.\w+)+")


@dataclass(frozen=True)
class Checkpoint:
    """What a file held.

    Attributes:
        state: tensors by name, without the prefixes of wrappers, on the CPU.
        facts: the plain values beside them (epoch, arch, accuracy).
        left_out: in words, what else lay beside them and was not read (optimizer, running averages,
            options).
    """

    state: dict[str, Tensor]
    facts: dict[str, str | int | float]
    left_out: tuple[str, ...] = ()


def read_checkpoint(path: Path, *, part: str = "", fits: Fits | None = None) -> Checkpoint:
    """Tensors from a torch, safetensors or numpy (`.npz`) file, on the CPU.

    Floating-point arrays of an .npz become float32. Torch files are read with `weights_only=True`;
    options, paths, dates and arrays beside the tensors become stand-ins (`bench.weights.pickles`),
    and no code of theirs runs. Wrappers ("state_dict", "model", "ema" ...) are opened and prefixes
    ("module.", "_orig_mod.", "model.") dropped.

    Args:
        path: of the file.
        part: the state to take where a file holds several, such as "model_ema".
        fits: whether a state belongs to the network that it is for; decides between several states
            and prefixes.

    Raises:
        WeightsError: it is not there, is not a checkpoint (and what it is instead), is cut short,
            claims more than it holds, wants to run code (naming what), holds something else than
            tensors, or weights that were rounded.
    """
    try:
        check_regular(path)
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except IsADirectoryError as error:
        hint = recognize_folder([one.name for one in path.iterdir()])
        raise WeightsError(f"{path}: {error.strerror}", hint=hint) from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    impostor = recognize(head)
    if impostor:
        raise WeightsError(f"{path} is {impostor[0]}", hint=impostor[1])
    one_of_several = recognize_part(path.name)
    if one_of_several:
        raise WeightsError(
            f"{path} is {one_of_several}, not all of its weights",
            hint="load all parts with the library that wrote them and save one state dictionary",
        )
    try:
        facts: dict[str, str | int | float] = {}
        if is_safetensors(head):
            found = find_state(_read_safetensors(path, head), part, fits)
        elif head.startswith(b"PK") and _is_npz(path):
            found = Found(_read_npz(path), ())
        else:
            content = _read_torch(path, head)
            if not isinstance(content, Mapping):
                raise WeightsError(f"holds a {type(content).__name__}, not a dictionary of tensors")
            found = find_state(content, part, fits)
            facts = _facts(found.beside)
        check_types(found.state)
        archives.check_total(
            path, sum(value.numel() * value.element_size() for value in found.state.values())
        )
    except WeightsError as error:
        if str(path) in error.message:
            raise
        said = error.message if not error.message.startswith("its ") else f": {error.message}"
        raise WeightsError(
            f"{path}{'' if said.startswith(':') else ' '}{said}", hint=error.hint
        ) from error
    return Checkpoint(found.state, facts, found.left_out)


def _read_safetensors(path: Path, head: bytes) -> dict[str, Tensor]:
    import safetensors.torch

    archives.check_safetensors(path, head)
    try:
        return dict(sorted(safetensors.torch.load(path.read_bytes()).items()))  # in no order else
    except Exception as error:  # safetensors raises a class of its own, and others for odd headers
        raise WeightsError(
            f"{path} is a damaged safetensors file: {str(error)[:200]}",
            hint="it may be cut short; fetch it again",
        ) from error


def _is_npz(path: Path) -> bool:
    """A zip archive of arrays and nothing else."""
    names = archives.names_in_zip(path)
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays by name; nothing is unpickled."""
    import numpy as np
    import torch

    archives.check_arrays(path)
    found: dict[str, Tensor] = {}
    name = ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                array = archive[name]
                if array.dtype.kind not in "fiub":
                    raise WeightsError(
                        f"{path}: {name!r} holds {array.dtype}, not numbers",
                        hint="export the variables alone",
                    )
                native = array.dtype.newbyteorder("=")
                with np.errstate(over="ignore"):  # what is too large is refused as not finite
                    kept = array.astype(np.float32 if array.dtype.kind == "f" else native)
                found[name] = torch.from_numpy(kept)
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise WeightsError(
                f"{path}: {name!r} holds objects, not numbers", hint=_NEEDS_CODE
            ) from error
        raise WeightsError(f"{path} is damaged: {error}", hint=archives.AGAIN) from error
    except WeightsError:
        raise
    except Exception as error:  # zip, zlib and numpy raise many kinds on damaged bytes
        raise WeightsError(f"{path} is damaged: {error}", hint=archives.AGAIN) from error
    return found


def _read_torch(path: Path, head: bytes) -> Any:
    import torch

    if head.startswith(b"PK"):
        _check_torch_zip(path)
    else:
        _check_legacy(path, head)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins()):
            warnings.simplefilter("ignore")
            return torch.load(for_torch(path), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of a damaged or hostile file
        raise _refusal(path, error) from error


def _check_torch_zip(path: Path) -> None:
    """Torch's newer format is a zip archive with a `data.pkl` in it."""
    names = archives.names_in_zip(path)
    pickled = archives.data_pickle(names)
    folder = pickled.removesuffix("data.pkl")
    programs = (f"{folder}code/", f"{folder}constants.pkl")
    if pickled and any(name.startswith(programs) for name in names):
        raise WeightsError(
            f"{path} is a TorchScript archive, a program with its weights; it was not run",
            hint="save its state_dict alone (torch.save(torch.jit.load(FILE).state_dict(), …)) "
            "and import that",
        )
    if pickled:
        archives.check_sums(path)
        return
    if any(name.endswith("archive_format") for name in names):
        raise WeightsError(
            f"{path} is a program that torch.export saved; it was not run",
            hint="save the network's state_dict alone and import that",
        )
    shown = ", ".join(names[:5]) or "nothing"
    raise WeightsError(
        f"{path} is a zip archive, but no checkpoint; it holds {shown}",
        hint="unpack it and import the checkpoint inside",
    )


def _check_legacy(path: Path, head: bytes) -> None:
    """Torch's older format asks for memory before it reads what fills it."""
    found = _scan(path) if head.startswith(b"\x80") else scan(head, pickles=1)
    if _DOTTED.fullmatch(found.name) and not head.startswith(b"\x80"):
        raise _wants_to_run(path, found.name)  # other names are lines of a text
    if head.startswith(PLAIN_MAGIC):
        raise _plain_pickle(path)
    if not head.startswith(b"\x80"):
        raise WeightsError(
            f"{path} is no checkpoint: it begins with {head[:12]!r}",
            hint="torch, safetensors and .npz files can be imported",
        )
    size = path.stat().st_size
    if not found.name and found.claimed > size:
        raise WeightsError(
            f"{path} claims more than it holds: a tensor of {found.claimed:,} bytes in {size:,}",
            hint=archives.AGAIN,
        )
    if not found.name and found.whole and MAGIC not in head[:64]:
        raise WeightsError(
            f"{path} is a pickle, but not one of torch; arrays in it are not read",
            hint="save them with torch.save, safetensors or numpy.savez and import that",
        )


def _plain_pickle(path: Path) -> WeightsError:
    return WeightsError(
        f"{path} was saved with pickle protocol 0 or 1, which is not read",
        hint="save it again with torch.save, without pickle_protocol",
    )


def _wants_to_run(path: Path, name: str) -> WeightsError:
    return WeightsError(
        f"{path} wants to run {name[:200]}, which no weights need; it was not run",
        hint=_NEEDS_CODE,
    )


def _refusal(path: Path, error: Exception) -> WeightsError:
    """The message for a file that torch refused."""
    found = _scan(path)
    if found.name:
        return _wants_to_run(path, found.name)
    if found.plain:
        return _plain_pickle(path)
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


def _scan(path: Path) -> Scan:
    """Look through the opcodes of a torch file without executing any."""
    try:
        data = path.read_bytes()
    except MemoryError as error:
        size = path.stat().st_size
        raise WeightsError(f"{path} has {size:,} bytes, more than fit into memory") from error
    if not data.startswith(b"PK"):
        return scan(data, pickles=5)
    try:
        with zipfile.ZipFile(path) as archive:
            name = archives.data_pickle(archive.namelist())
            return scan(archives.read_entry(archive, name), pickles=1)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError):
        return Scan("", False)


def _facts(wrapper: Mapping[Any, Any]) -> dict[str, str | int | float]:
    """Plain values beside the state dictionary."""
    import torch

    facts: dict[str, str | int | float] = {}
    for name, value in wrapper.items():
        plain = value
        if isinstance(value, torch.Tensor):
            if value.numel() != 1 or value.is_complex() or value.device.type != "cpu":
                continue
            try:
                plain = value.item()
            except (ValueError, RuntimeError, NotImplementedError):
                continue
        if isinstance(plain, (str, int, float)):
            facts[str(name)] = plain[:200] if isinstance(plain, str) else plain
    return facts
