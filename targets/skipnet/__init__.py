"""SkipNet: gates skip the blocks of a residual network."""

from targets.skipnet.network import SkipNet

__all__ = ["SkipNet"]
