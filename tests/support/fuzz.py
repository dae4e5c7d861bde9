"""What fuzzers share: how long they run, mutations of bytes, and a watch over what gets executed.

GATEBENCH_FUZZ=N makes every fuzzer look at N inputs, drawn at random; without it they look at a
few, always the same.
"""

import contextlib
import os
import sys

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("GATEBENCH_FUZZ", "0"))

RAN = []
"""What `touch` was called with: something executed a call that a file asked for."""

FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "os.startfile",
    "subprocess.Popen", "pty.spawn", "socket.connect", "os.remove", "os.rename", "os.rmdir",
    "shutil.rmtree", "os.mkdir", "os.chmod", "os.link", "os.symlink", "ctypes.dlopen", "webbrowser.open",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_PROCESSES = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "subprocess.Popen")
_events = None


def fuzzed(examples):
    """Settings of a fuzzer that looks at `examples` inputs where nobody asks for more."""
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def touch(*arguments):
    """What hostile files ask for; it must never run."""
    RAN.append(arguments)


def _hook(event, arguments):
    if _events is None:
        return
    handle = event == "open" and isinstance(arguments[0], int)  # of what was opened by its name
    if event in FORBIDDEN or (event == "open" and not handle and _writes(*arguments[1:3])):
        _events.append((event, arguments))


def _writes(mode, flags):
    """Whether a file is opened to be written: by a mode, or by the flags of the system alone."""
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return isinstance(flags, int) and bool(flags & _WRITING)


sys.addaudithook(_hook)


@contextlib.contextmanager
def nothing_runs(inside=None):
    """Fail where a process is started, a file is written or removed, or `touch` is called.

    What is imported meanwhile is not kept compiled: that would be a file.

    Args:
        inside: a folder in which files may be written and removed.
    """
    global _events
    _events, before, compiled = [], len(RAN), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
        found = [one for one in _events if inside is None or not _is_inside(inside, *one)]
        assert not found, found[:5]
        assert len(RAN) == before
    finally:
        _events, sys.dont_write_bytecode = None, compiled


def _is_inside(folder, event, arguments):
    """Whether an event is about a file below a folder; a bare name is one of a folder that is open
    already, as `shutil.rmtree` removes them."""
    path = arguments[0]
    if event.startswith(_PROCESSES) or not isinstance(path, str | os.PathLike):
        return False
    found, folder = os.path.realpath(os.fspath(path)), os.path.realpath(folder)
    bare = event in ("os.remove", "os.rmdir") and os.sep not in os.fspath(path)
    return bare or found == folder or found.startswith(f"{folder}{os.sep}")


_LENGTHS = [0, 1, 2**7, 2**15, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]
_PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(_LENGTHS).map(lambda number: number.to_bytes(8, "little")),
    st.sampled_from(_LENGTHS).map(lambda number: number.to_bytes(8, "big")),
    st.sampled_from(_LENGTHS).map(lambda number: number.to_bytes(8, "little")[:4]),
    st.sampled_from(
        [b"PK\x05\x06", b"PK\x01\x02", b"\x80\x02", b".", b"{", b"\x00" * 64, b"\xff" * 16]
    ),
)
_EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "cut", "repeat", "flip"]),
        st.floats(0, 1),
        _PIECES,
    ),
    min_size=1,
    max_size=4,
)


def mutated(sources):
    """Strategy: one of `sources` (bytes), with a few edits."""
    return st.builds(_edit, st.sampled_from(sources), _EDITS)


def _edit(data, edits):
    for kind, share, piece in edits:
        place = round(share * len(data))
        if kind == "replace":
            data = data[:place] + piece + data[place + len(piece) :]
        elif kind == "insert":
            data = data[:place] + piece + data[place:]
        elif kind == "delete":
            data = data[:place] + data[place + max(1, len(piece)) :]
        elif kind == "cut":
            data = data[:place]
        elif kind == "repeat":
            data = data[:place] + data[max(0, place - 40) :]
        elif place < len(data):
            data = (
                data[:place] + bytes([data[place] ^ (piece[0] if piece else 1)]) + data[place + 1 :]
            )
    return data
