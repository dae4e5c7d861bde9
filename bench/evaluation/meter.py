"""Counting the forwards of a target where they happen, whoever asks for them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from bench.contracts.target import ForkEdit, Target
from bench.errors import ContractBroken
from bench.evaluation.withheld import Weights


class ForwardMeter:
    """Counts the images that a target and the network inside it evaluate, in `forward` or
    `execute`, and keeps their weights from the code of an attack.

    What one evaluation asks of the network inside belongs to that evaluation: a monitored target
    that runs its network twice counts once.

    While code of an attack runs, the weights are put away (`bench.evaluation.withheld`); only an
    evaluation by the view puts them back. So other ways to evaluate than those two methods (the
    method of the class, modules of the network, functions of its weights) compute nothing, and are
    noted.

    Args:
        target: a copy that is used for nothing else; its methods are wrapped.

    Attributes:
        images: evaluated so far.
        uses: of weights that were put away.
    """

    def __init__(self, target: Target) -> None:
        self.images = 0
        self.uses = 0
        self._who = "the attack"
        self._lock = threading.Lock()
        self._inside = threading.local()
        networks = {id(each): each for each in (target, target.undefended)}
        self._weights = Weights(tuple(networks.values()), self._refuse)
        for network in networks.values():
            for name in ("forward", "execute"):
                setattr(network, name, self._counting(getattr(network, name)))

    @contextlib.contextmanager
    def withheld(self, who: str) -> Iterator[None]:
        """Around the code of an attack: the weights are put away.

        Args:
            who: the attack, for the message.

        Raises:
            ContractBroken: they were used all the same.
        """
        before, self._who = self.uses, who
        with self._moved(away=True):
            yield
        if self.uses > before:
            raise _used(who)

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Around an evaluation by the view: the weights are there."""
        return self._moved(away=False)

    def calling(self) -> contextlib.AbstractContextManager[None]:
        """Around a call from an evaluation back to the attack: the weights are put away."""
        return self._moved(away=True)

    def called(self, edit: ForkEdit) -> ForkEdit:
        """The fork edit of an attack, each call of it inside of `calling`."""

        def edited(*args: Any) -> Any:
            with self.calling():
                return edit(*args)

        return edited

    @contextlib.contextmanager
    def _moved(self, *, away: bool) -> Iterator[None]:
        before = self._weights.are_away
        self._weights.move(away)
        try:
            yield
        finally:
            self._weights.move(before)

    def _refuse(self) -> NoReturn:
        with self._lock:
            self.uses += 1
        raise _used(self._who)

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


def _used(who: str) -> ContractBroken:
    return ContractBroken(
        f"{who} used the weights of the network that it attacks past its view",
        hint="evaluate by calling the view, its gradients or its macs",
    )
