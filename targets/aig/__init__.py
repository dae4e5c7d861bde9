"""ConvNet-AIG: gates that look at the input of a block skip it."""

from targets.aig.network import AIG

__all__ = ["AIG"]
