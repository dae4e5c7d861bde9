"""ManiDP: channels are kept by their saliency."""

from targets.manidp.network import ManiDP

__all__ = ["ManiDP"]
