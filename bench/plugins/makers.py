"""Which distributions a top-level module comes from."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import Distribution, distributions


def makers_of(modules: Collection[str]) -> dict[str, list[str]]:
    """Names of the distributions that installed each of these modules, in the order of the path.

    `importlib.metadata.packages_distributions` says the same of every module that is installed,
    and takes a second for it, since it makes an object of every file; here only the top-level
    names are read.

    Args:
        modules: names without a dot.

    Returns:
        Names of distributions by module; a module that nobody installed is left out.
    """
    found: dict[str, list[str]] = {}
    for distribution in distributions():
        for module in _top_level(distribution).intersection(modules):
            found.setdefault(module, []).append(distribution.metadata["Name"])
    return found


def _top_level(distribution: Distribution) -> set[str]:
    """What a distribution declares, else what its list of files holds of Python's."""
    declared = (distribution.read_text("top_level.txt") or "").split()
    if declared:
        return set(declared)
    record = distribution.read_text("RECORD")
    if record is not None:  # "path,digest,size", a path with a comma in quotes
        paths = [line.rsplit(",", 2)[0].strip('"') for line in record.splitlines()]
    else:
        paths = (distribution.read_text("SOURCES.txt") or "").splitlines()
    return {path.partition("/")[0].removesuffix(".py") for path in paths if path.endswith(".py")}
