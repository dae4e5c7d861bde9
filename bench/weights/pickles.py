"""Pickles of other people: what they name, without running any of it.

Torch reads tensors with an unpickler of its own that calls nothing but what it is told to trust.
What trainers save beside the tensors (options, paths, dates, arrays) names classes that it does not
trust; stand-ins from here take their place. A stand-in keeps nothing and does nothing, so no code
of those classes runs either.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

_TENSORS = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|torch(\.\w+)?\.\w+(Storage|Tensor)"
    r"|torch\.\w+|torch\._utils\._rebuild_\w+|torch\.nn\.parameter\.Parameter"
    r"|torch\.serialization\._get_layout"
)
"""Globals that a state dictionary may name."""

INERT = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(
        f"{module}.{kind}"
        for module in ("pathlib", "pathlib._local")
        for kind in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
    *(f"datetime.{kind}" for kind in ("datetime", "date", "time", "timedelta", "timezone")),
    *(
        f"{module}.{kind}"
        for module in ("builtins", "__builtin__")
        for kind in (
            *("set", "frozenset", "slice", "range", "complex", "bytearray", "object"),
            *("list", "dict", "tuple", "int", "float", "str", "bool"),
        )
    ),
    "collections.deque",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "decimal.Decimal",
    "fractions.Fraction",
    "uuid.UUID",
    "zoneinfo.ZoneInfo._unpickle",
    "numpy.ndarray",
    *(
        f"numpy.{core}.{name}"
        for core in ("core", "_core")
        for name in ("multiarray._reconstruct", "numeric._frombuffer")
    ),
    "numpy.ma.core._mareconstruct",
    "numpy.random._pickle.__randomstate_ctor",
    "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__bit_generator_ctor",
    "numpy.random._mt19937.MT19937",
    "numpy.random._pcg64.PCG64",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "typing.Any",
    "ml_collections.config_dict.config_dict.ConfigDict",
)
"""Values without code that trainers save beside the tensors; stand-ins replace them."""

DICTIONARIES = (
    "collections.defaultdict",
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "munch.Munch",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
"""Dictionaries under other names; each is read as a plain one."""

_DTYPES = ("numpy.dtype",)
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_NUMBERS = re.compile(r"[fiu][1248]|b1")

_INTEGERS = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4")
_PUTS = ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT")
_GETS = ("BINGET", "LONG_BINGET", "GET")
_BYTES = {
    "DoubleStorage": 8,
    "LongStorage": 8,
    "FloatStorage": 4,
    "IntStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "ShortStorage": 2,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}


class Inert:
    """A stand-in for an object of a class that is not looked at; it keeps nothing."""

    def __new__(cls, *arguments: object, **options: object) -> Inert:
        return object.__new__(cls)

    def __init__(self, *arguments: object, **options: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class DType(Inert):
    """A stand-in for `numpy.dtype`: its name and byte order alone."""

    def __init__(self, name: object = "", *options: object) -> None:
        self.name, self.order = str(name), "<"

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]


def scalar(kind: object = None, data: object = b"", *options: object) -> object:
    """A number from the bytes of a numpy scalar; a stand-in where it is none."""
    import numpy as np

    if isinstance(data, str):
        data = data.encode("latin1", "ignore")
    if isinstance(kind, DType) and isinstance(data, bytes) and _NUMBERS.fullmatch(kind.name):
        found = np.dtype(kind.order + kind.name)
        if len(data) == found.itemsize:
            return np.frombuffer(data, found)[0].item()
    return Inert()


def _dictionary(*arguments: object) -> OrderedDict[Any, Any]:
    return OrderedDict()


def stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What `torch.serialization.safe_globals` takes: a stand-in for every name of this file."""
    found: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (type(name.rpartition(".")[2], (Inert,), {}), name) for name in INERT
    ]
    found += [
        (_dictionary if name.endswith("defaultdict") else OrderedDict, name)
        for name in DICTIONARIES
    ]
    found += [(DType, name) for name in _DTYPES]
    found += [(scalar, name) for name in _SCALARS]
    return found


_KNOWN = frozenset((*INERT, *DICTIONARIES, *_DTYPES, *_SCALARS))


class Scan(NamedTuple):
    """What the opcodes of pickles say.

    Attributes:
        name: the first global that weights do not need, "" if there is none.
        whole: whether the pickles are whole.
        claimed: bytes of the largest storage that they ask for.
        plain: whether they are of protocol 0 or 1.
    """

    name: str
    whole: bool
    claimed: int = 0
    plain: bool = False


def scan(data: bytes, pickles: int) -> Scan:
    """Look through the opcodes of pickles in a row without executing any.

    Args:
        data: begins with a pickle. Torch's older format is five (magic number, protocol, system,
            object, storage keys), then raw numbers.
        pickles: how many at most.
    """
    stream, claimed = io.BytesIO(data), 0
    for number in range(pickles):
        if number and stream.tell() == len(data):
            break
        strings: list[str] = []
        known: dict[int, str] = {}  # strings by their place in the memo
        kept, last = 0, ""
        counts: list[int] = []
        width = 1
        try:
            for opcode, argument, _position in pickletools.genops(stream):
                name = _global(opcode.name, argument, strings)
                if name and not _TENSORS.fullmatch(name) and name not in _KNOWN:
                    return Scan(name, True, claimed)
                if name.endswith("Storage"):
                    width = _BYTES.get(name.rpartition(".")[2], 1)
                elif opcode.name == "MARK":
                    counts.clear()
                elif opcode.name == "BINPERSID":  # ("storage", class, key, device, count, ...)
                    claimed = max([claimed, *(width * count for count in counts)])
                elif opcode.name in _PUTS:
                    if last:
                        known[kept if opcode.name == "MEMOIZE" else _whole(argument)] = last
                    kept += 1
                    continue
                elif opcode.name in _GETS and _whole(argument) in known:
                    strings.append(known[_whole(argument)])
                    last = strings[-1]
                    continue
                elif isinstance(argument, str):
                    strings.append(argument)
                    last = argument
                    continue
                elif opcode.name in _INTEGERS and isinstance(argument, int):
                    counts.append(argument)
                last = ""
        except Exception:  # genops raises many kinds on bytes that are no pickle
            return Scan("", False, claimed)
    return Scan("", True, claimed, not data.startswith(b"\x80"))


def _whole(argument: object) -> int:
    return argument if isinstance(argument, int) else -1


def _global(opcode: str, argument: object, strings: list[str]) -> str:
    """The dotted name that an opcode asks for, "" if it asks for none."""
    if opcode in ("GLOBAL", "INST"):
        return str(argument).replace(" ", ".")
    return ".".join(strings[-2:]) if opcode == "STACK_GLOBAL" else ""
