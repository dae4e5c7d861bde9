"""SACT and ACT: halting scores stop the units of a block, position by position."""

from targets.sact.network import SACT

__all__ = ["SACT"]
