"""DynamicViT: predictors drop tokens at a few stages, by a threshold or down to a fixed number."""

from targets.dynamicvit.fixed import FixedTokens
from targets.dynamicvit.network import DynamicViT

__all__ = ["DynamicViT", "FixedTokens"]
