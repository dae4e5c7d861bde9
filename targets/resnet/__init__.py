"""Plain residual networks, and the backbone that dynamic ones stand on."""

from targets.resnet.backbone import Backbone
from targets.resnet.blocks import BasicBlock, Bottleneck, Place, layout_for
from targets.resnet.network import ResNet

__all__ = ["Backbone", "BasicBlock", "Bottleneck", "Place", "ResNet", "layout_for"]
