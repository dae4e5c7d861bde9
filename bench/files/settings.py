"""A user's own settings: where data sets lie, where runs go, what computes.

They stand in `GATEBENCH_HOME/config.toml`, and environment variables override them:

    data-root = "/data/images"      # GATEBENCH_DATA_ROOT
    out = "/data/runs"              # GATEBENCH_OUT
    device = "cuda"                 # GATEBENCH_DEVICE

Options on the command line override both. None of it changes a result, except `device`.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from bench.errors import PlanError, did_you_mean
from bench.files.home import home
from bench.files.regular import read_regular
from bench.files.text import text_of

CONFIG = "config.toml"
_VARIABLES = {
    "data-root": "GATEBENCH_DATA_ROOT",
    "out": "GATEBENCH_OUT",
    "device": "GATEBENCH_DEVICE",
}
_LARGEST = 2**20


@dataclass(frozen=True)
class Settings:
    """What a user prefers.

    Attributes:
        data_root: the folder that data sets lie in; None where each looks in its own place.
        out: the folder of all runs.
        device: what computes where neither option nor plan says; None for the usual.
    """

    data_root: Path | None
    out: Path
    device: str | None


def settings() -> Settings:
    """The settings of this user.

    Raises:
        PlanError: config.toml is no TOML, or holds something else.
    """
    values = _file(home() / CONFIG)
    for key, variable in _VARIABLES.items():
        if os.environ.get(variable):
            values[key] = os.environ[variable]
    root, out = values.get("data-root"), values.get("out")
    return Settings(
        data_root=_folder(root) if root else None,
        out=_folder(out) if out else Path("runs"),
        device=values.get("device"),
    )


def _folder(text: str) -> Path:
    """A folder; `~` stays as it is where nobody knows whose home is meant."""
    return Path(os.path.expanduser(text))


def _file(path: Path) -> dict[str, str]:
    try:
        found = tomllib.loads(text_of(read_regular(path, _LARGEST)))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise PlanError(f"{path} cannot be read: {error}") from error
    problems = [
        f"{path}: unknown key {key!r}{did_you_mean(key, _VARIABLES)}"
        if key not in _VARIABLES
        else f"{path}: {key} is a text in quotes, got {value!r:.200}"
        for key, value in found.items()
        if key not in _VARIABLES or not isinstance(value, str) or "\0" in value
    ]
    if problems:
        raise PlanError(problems)
    return found
