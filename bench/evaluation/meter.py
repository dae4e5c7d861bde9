"""Counting the forwards of a target where they happen, whoever asks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from bench.contracts.target import Target


class ForwardMeter:
    """Counts the images that a target and the network inside it evaluate, in `forward` or
    `execute`.

    What one evaluation asks of the network inside belongs to that evaluation: a monitored target
    that runs its network twice counts once.

    Args:
        target: a copy that is used for nothing else; its methods are wrapped.

    Attributes:
        images: evaluated so far.
    """

    def __init__(self, target: Target) -> None:
        self.images = 0
        self._lock = threading.Lock()
        self._inside = threading.local()
        for network in {id(each): each for each in (target, target.undefended)}.values():
            for name in ("forward", "execute"):
                setattr(network, name, self._counting(getattr(network, name)))

    def _counting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(images: Any, *rest: Any, **named: Any) -> Any:
            if getattr(self._inside, "entered", False):
                return method(images, *rest, **named)
            with self._lock:
                self.images += len(images)
            self._inside.entered = True
            try:
                return method(images, *rest, **named)
            finally:
                self._inside.entered = False

        return counted
