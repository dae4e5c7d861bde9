"""Cascades: a cheap network answers where it is sure, a dearer one elsewhere."""

from targets.cascade.network import Cascade

__all__ = ["Cascade"]
