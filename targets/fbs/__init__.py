"""FBS: a fixed number of channels is kept, which makes it a control."""

from targets.fbs.network import FBS

__all__ = ["FBS"]
