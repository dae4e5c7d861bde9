"""Where pretrained weights come from: a file, an installed package, or timm's hub.

A source is a text: "package:MODULE/PATH" is a file inside an installed package, which is not
imported; "hub:MODEL" is the file that timm knows for a model; anything else is a path. Only
`locate` of a hub source may use the network. Files are read by `bench.weights.checkpoint`, which
runs no code from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path, PurePosixPath
from typing import Any

from bench.errors import PlanError, WeightsError, did_you_mean
from bench.plugins.makers import makers_of
from bench.weights.manifest import module_folder

PACKAGE, HUB = "package:", "hub:"


class NotInstalled(WeightsError):
    """Weights in a package that this environment does not have."""


@dataclass(frozen=True)
class Located:
    """A file of pretrained weights.

    Attributes:
        path: of the file.
        licence: SPDX identifier where the source tells it, else "unknown".
    """

    path: Path
    licence: str = "unknown"


def locate(source: str, *, install: str = "") -> Located:
    """The file that a source names.

    Args:
        source: "package:MODULE/PATH", "hub:MODEL", or a path.
        install: what to install where the package is missing, for the message.

    Raises:
        NotInstalled: the package is not there.
        PlanError: timm knows no pretrained weights of that name.
        WeightsError: the package has no such file, or the hub cannot be reached.
    """
    if source.startswith(PACKAGE):
        return _in_package(source, install)
    if source.startswith(HUB):
        return _from_hub(source.removeprefix(HUB))
    return Located(Path(source))


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file; read once as long as its size and time stay the same.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from error


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_package(source: str, install: str) -> Located:
    module, _, inside = source.removeprefix(PACKAGE).partition("/")
    parts = PurePosixPath(inside).parts
    if not module or not parts or ".." in parts or parts[0] == "/":
        raise PlanError(f"{source!r}: a file in a package is written package:MODULE/PATH")
    folder = module_folder(module)
    if folder is None:
        distribution = install or module.replace("_", "-")
        raise NotInstalled(
            f"the package {module} is not installed", hint=f"pip install '{distribution}'"
        )
    path = folder.joinpath(*parts)
    if not path.is_file():
        raise WeightsError(
            f"the package {module} has no file {inside}", hint="another version of it may be here"
        )
    return Located(path, _licence_of(module))


def _licence_of(module: str) -> str:
    """What the package's metadata say, "unknown" where they say nothing."""
    for distribution in makers_of({module}).get(module, ()):
        try:
            said = metadata(distribution)
        except PackageNotFoundError:
            continue
        words = said["License-Expression"] or said["License"] or ""
        if words and words != "UNKNOWN" and "\n" not in words:
            return words[:80]
    return "unknown"


def _from_hub(name: str) -> Located:
    import timm

    known = _hub_entry(name)
    if known is None:
        raise PlanError(
            f"hub:{name}: timm knows no pretrained weights of that name"
            f"{did_you_mean(name, timm.list_pretrained())}"
        )
    licence = str(known.license or "unknown")
    if known.file:
        return Located(Path(known.file), licence)
    try:
        return Located(_fetched(known), licence)
    except Exception as error:  # whatever the network and the libraries in between raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise WeightsError(
            f"hub:{name}: the file cannot be fetched: {said}",
            hint=f"fetch it by other means ({known.hf_hub_id or known.url}) and import the file",
        ) from error


def _hub_entry(name: str) -> Any:
    """timm's configuration of pretrained weights, None where it has none of that name."""
    found = _configuration(name)
    return found if found is not None and found.has_weights else None


def _configuration(name: str) -> Any:
    """What timm notes of a model, or of its weights of a tag; None where it knows none."""
    import timm
    from timm.models import get_pretrained_cfg

    if not timm.is_model(name):
        return None
    try:
        return get_pretrained_cfg(name)
    except RuntimeError:  # a tag that the model does not have
        return None


def check_preparation(source: str, parameters: Mapping[str, Any]) -> None:
    """Refuse weights of timm's hub that were trained on images prepared otherwise than a network
    prepares them: weights of one model may differ in that, with the same names and shapes.

    Args:
        source: as `locate` takes it.
        parameters: of the network; `backbone` names the model of timm, if it is one.

    Raises:
        WeightsError: mean or deviation differ.
    """
    backbone = str(parameters.get("backbone", ""))
    if not source.startswith(HUB) or not backbone:
        return
    theirs, ours = _hub_entry(source.removeprefix(HUB)), _configuration(backbone)
    if theirs is None or ours is None or (theirs.mean, theirs.std) == (ours.mean, ours.std):
        return
    raise WeightsError(
        f"{source} was trained on images less {_in_words(theirs.mean)} over "
        f"{_in_words(theirs.std)}, and backbone = {backbone!r} takes {_in_words(ours.mean)} and "
        f"{_in_words(ours.std)}",
        hint=f"--set backbone={source.removeprefix(HUB)}",
    )


def _in_words(channels: Sequence[float]) -> str:
    return "/".join(f"{one:g}" for one in channels)


def _fetched(known: Any) -> Path:
    """The file in the cache of the hub, fetched where it is not there."""
    if known.hf_hub_id:
        from huggingface_hub import hf_hub_download

        file = known.hf_hub_filename or "model.safetensors"
        return Path(hf_hub_download(known.hf_hub_id, file))
    from timm.models._hub import download_cached_file

    return Path(download_cached_file(known.url))
