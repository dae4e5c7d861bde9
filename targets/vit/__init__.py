"""Vision transformers of timm: plain, and the backbone of the networks that drop tokens."""

from targets.vit.backbone import TransformerBackbone
from targets.vit.network import ViT

__all__ = ["TransformerBackbone", "ViT"]
