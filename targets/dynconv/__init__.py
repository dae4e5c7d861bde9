"""DynConv: masks over positions leave out parts of blocks."""

from targets.dynconv.network import DynConv

__all__ = ["DynConv"]
