"""Fails to import, in a way that `except Exception` would miss."""

from dataclasses import dataclass

from bench.api import Attack


@dataclass(frozen=True, kw_only=True)
class Broken(Attack):
    """Never gets as far as being a class."""

    strength: int = 1


raise SystemExit("this module leaves")
