"""Random changes of good documents, and commands in this process that take whatever comes of them.

`GATEBENCH_FUZZ=5000` makes that many of each, with new ones each time; by default a few, the same.
"""

import contextlib
import copy
import io
import os
from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import bench.cli
from bench.errors import EXIT_CODES
from bench.terminal import printable

WANTED = int(os.environ.get("GATEBENCH_FUZZ", "0"))
fuzzed = settings(
    max_examples=WANTED or 25,
    derandomize=not WANTED,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

WORDS = [
    "", "auto", "none", "random:0", "random:-1", "random:99999999999999999999", "digits-m:test",
    "digits-m:train", "cifar10:test", "imagefolder:test", "skipnet", "skipnet:110", "gradauto:code",
    "autoenergy", "gatebench/noise", "a/b/c", ":", "/", "..", "\0", "x" * 5000, "\x1b[2J", "\u202e",
    "\ud7ff", "quickstart", "cifar10", "nowhere.toml", "/dev/zero", "/proc/self/mem", "plan.toml",
    "1/0", "8/255", "-1/2", "1e400", "nan", "10m", "inf h", "cuda:1", "cuda:999", "local", "absent",
    "linf", "l2", "psnr", "patch", "skipnet-20-budget@digits-m", "skipnet-20-budget", "@", "0x10",
]  # fmt: skip
scalars = st.one_of(
    st.sampled_from(WORDS),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63), 10**9, 10**18]),
    st.floats(),
    st.booleans(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from([*WORDS, "norm", "eps", "floor", "K"]), inner, max_size=3),
    ),
    max_leaves=8,
)


def places(document, path=()):
    """The paths of everything in a document."""
    found = [path] if path else []
    items = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    for key, value in items:
        found += places(value, (*path, key))
    return found


def change(document, path, deed, value):
    """Delete, replace, double or rename what lies at a path."""
    at = document
    for key in path[:-1]:
        at = at[key]
    last = path[-1]
    if deed == "delete":
        del at[last]
    elif deed == "replace":
        at[last] = value
    elif isinstance(at, list):
        at.append(copy.deepcopy(at[last]))
    elif deed == "rename":
        at[str(value)] = at.pop(last)
    else:
        at[last] = [at[last], copy.deepcopy(at[last])]


def mutated(draw, document):
    for _ in range(draw(st.integers(1, 4))):
        known = places(document)
        if not known:
            break
        deed = draw(st.sampled_from(["delete", "replace", "replace", "double", "rename"]))
        change(document, draw(st.sampled_from(known)), deed, draw(values))
    return document


COUNTS = Counter()


def command(*arguments):
    """A command in this process: its exit code; its output was looked at."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = bench.cli._run(list(arguments))
    said = out.getvalue() + err.getvalue()
    assert code in set(EXIT_CODES) - {1}, said
    assert "Traceback" not in said
    assert said == printable(said)
    assert len(said) < 1_000_000
    COUNTS[f"{arguments[0]} {code}"] += 1
    return code
