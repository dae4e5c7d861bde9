"""A-ViT: tokens of a vision transformer halt one by one."""

from targets.avit.network import AViT

__all__ = ["AViT"]
