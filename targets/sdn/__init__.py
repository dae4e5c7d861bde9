"""Shallow-deep networks: classifiers inside a network let an image leave early."""

from targets.sdn.network import SDN

__all__ = ["SDN"]
