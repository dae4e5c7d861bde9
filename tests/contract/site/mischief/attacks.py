"""Attacks that break their contract, each in one way."""

import contextlib
import copy
import importlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from bench.api import Attack, Skip
from bench.errors import ContractBroken

Deed = Literal[
    "raise", "nan", "infinity", "range", "ball", "shape", "type", "integers", "in-place", "weights", "buffers", "train",
    "spend", "gates", "gradients", "price", "pass-rows-off", "free-gradient", "fork", "system-exit", "interrupt", "garbage",
    "memory", "labels", "supports-lies", "surrogate", "unspeakable",
    "past-the-view", "past-the-view-inside", "past-the-view-by-class", "past-the-view-by-module",
    "past-the-view-by-weight", "past-the-view-in-losses", "past-the-view-opened", "lying-images",
    "free-backward", "supports-keeps", "supports-evaluates",
    "hang", "hang-at-more", "busy", "exit", "segfault", "kill", "exit-in-thread", "global-state", "peek-global-state",
]  # fmt: skip


SEEN = []
"""The target that `supports` was shown last."""


def broken_into(view):
    """What lies behind the view that an attack is handed, by way of a name of the harness."""
    return importlib.import_module("bench.evaluation.sealed_view")._INSIDE[view]


def opened(view):
    """The target with its weights where they should not be."""
    inside = broken_into(view)
    inside.meter._weights.move(away=False)
    return inside.whole


class Agreeable(torch.Tensor):
    """A tensor that says of every comparison that all is well."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ("__gt__", "__lt__", "gt", "lt", "any"):
            return torch.zeros(args[0].shape, dtype=torch.bool)
        if name in ("equal", "isfinite", "all"):
            return torch.tensor(True)
        return super().__torch_function__(func, types, args, kwargs or {})


@dataclass(frozen=True, kw_only=True)
class Mischief(Attack):
    """Does one thing that an attack must not do.

    Attributes:
        deed: which.
    """

    deed: Deed

    def supports(self, target, threat):
        if self.deed == "supports-lies":
            return "no"
        if self.deed == "fork":
            return Skip("mischief does not fork")
        if self.deed == "supports-evaluates":
            target(torch.zeros(1, *target.image_shape))
        SEEN[:] = [target]
        return None

    def perturb(self, view, images, labels, job):
        return getattr(self, "_" + self.deed.replace("-", "_"))(view, images, labels, job)

    def _raise(self, view, images, labels, job):
        raise ZeroDivisionError("on purpose")

    def _nan(self, view, images, labels, job):
        return images * float("nan")

    def _infinity(self, view, images, labels, job):
        result = images.clone()
        result[0, 0, 0, 0] = float("inf")
        return result

    def _range(self, view, images, labels, job):
        return images * 3 - 1

    def _ball(self, view, images, labels, job):
        return 1 - images

    def _shape(self, view, images, labels, job):
        return images[:, :1]

    def _type(self, view, images, labels, job):
        return images.tolist()

    def _integers(self, view, images, labels, job):
        return (images * 255).to(torch.uint8)

    def _in_place(self, view, images, labels, job):
        return images.mul_(0.99)

    def _weights(self, view, images, labels, job):
        with torch.no_grad():
            opened(view).head.weight.add_(1e-7)
        return images

    def _buffers(self, view, images, labels, job):
        target = opened(view)
        target.register_buffer("stowaway", torch.zeros(1))
        target.head.bias.data = target.head.bias.data + 1
        return images

    def _train(self, view, images, labels, job):
        broken_into(view).whole.blocks[1].train()
        return images

    def _past_the_view(self, view, images, labels, job):
        with torch.no_grad():
            broken_into(view).whole(images + 0.01)
        return images

    def _past_the_view_inside(self, view, images, labels, job):
        broken_into(view).whole.execute(images[:1])
        return images

    def _past_the_view_by_class(self, view, images, labels, job):
        target, x = broken_into(view).whole, images.clone().requires_grad_()
        torch.autograd.grad(type(target).forward(target, x).logit_margins.sum(), x)
        return images

    def _past_the_view_by_module(self, view, images, labels, job):
        with contextlib.suppress(Exception):
            broken_into(view).whole.stem(images)
        return images

    def _past_the_view_by_weight(self, view, images, labels, job):
        with contextlib.suppress(Exception):
            copy.deepcopy(broken_into(view).whole.state_dict())
        return images

    def _past_the_view_in_losses(self, view, images, labels, job):
        target = broken_into(view).whole

        def losses(output):
            with contextlib.suppress(Exception):
                target.stem(images)
            return [output.logits.sum(1)]

        view.gradients(losses, images, torch.arange(len(images)))
        return images

    def _past_the_view_opened(self, view, images, labels, job):
        opened(view)(images)
        return images

    def _supports_keeps(self, view, images, labels, job):
        """Nothing comes of what `supports` was shown."""
        target = SEEN[0]
        for use in (
            lambda: target(images),
            lambda: target.execute(images[:1]),
            lambda: type(target).forward(target, images),
            lambda: target.stem(images),
            lambda: torch.nn.functional.linear(torch.zeros(1, 4), target.head.weight),
            lambda: copy.deepcopy(target)(images),
            lambda: type(target)().load_state_dict(target.state_dict()),
            lambda: target.undefended(images),
            lambda: target.equivalent()(images),
        ):
            with contextlib.suppress(ContractBroken):
                use()
                raise AssertionError("it can be evaluated")
        return images

    def _lying_images(self, view, images, labels, job):
        return (1 - images).as_subclass(Agreeable)

    def _free_backward(self, view, images, labels, job):
        stolen = []

        def losses(output):
            total = output.logits.sum() + output.logit_margins.sum()
            node = [total.grad_fn]
            while node:
                here = node.pop()
                saved = [getattr(here, "variable", None), getattr(here, "_saved_input", None)]
                for value in saved:
                    if value is not None and value.shape == images.shape:
                        stolen.extend(torch.autograd.grad(total, value, retain_graph=True))
                node += [each for each, _ in here.next_functions if each is not None]
            return [output.logits.sum(1) * 0]

        view.gradients(losses, images, torch.arange(len(images)))
        assert not stolen, "a gradient that was not paid for"
        return images

    def _spend(self, view, images, labels, job):
        while True:
            view(images, torch.arange(len(images)))

    def _gates(self, view, images, labels, job):
        raise AssertionError("only for access macs")

    def _gradients(self, view, images, labels, job):
        view.gradients(lambda output: [output.margins], images, torch.arange(len(images)))
        return images

    def _price(self, view, images, labels, job):
        view.price(torch.zeros(1, 3, dtype=torch.bool))
        return images

    def _pass_rows_off(self, view, images, labels, job):
        view(torch.cat([images] * 9), torch.arange(len(images)))
        return images

    def _free_gradient(self, view, images, labels, job):
        rows = torch.arange(len(images))

        def losses(output):
            value = output.logit_margins.sum(1)
            free = value - value.detach()
            return [torch.cat([value[:1], free[1:]])]

        _, (grad,) = view.gradients(losses, images, rows)
        assert not bool(grad[1:].any()), "a gradient that was not paid for"
        return images

    def _system_exit(self, view, images, labels, job):
        sys.exit("enough")

    def _interrupt(self, view, images, labels, job):
        raise KeyboardInterrupt

    def _garbage(self, view, images, labels, job):
        print("\x1b[2J\x00rubbish\udc80" * 3)
        os.write(1, bytes(range(256)) * 20)
        os.write(2, b"\xff\xfe more rubbish\n")
        return images

    def _memory(self, view, images, labels, job):
        raise MemoryError

    def _labels(self, view, images, labels, job):
        labels.fill_(77)
        return images

    def _surrogate(self, view, images, labels, job):
        raise ValueError("half a character: \udc80")

    def _unspeakable(self, view, images, labels, job):
        raise Unspeakable

    def _hang(self, view, images, labels, job):
        time.sleep(3600)

    def _hang_at_more(self, view, images, labels, job):
        if job.budget > 20:
            time.sleep(3600)
        return images

    def _busy(self, view, images, labels, job):
        while True:
            job.progress(1, 2)
            time.sleep(0.01)

    def _exit(self, view, images, labels, job):
        os._exit(3)

    def _segfault(self, view, images, labels, job):
        os.kill(os.getpid(), signal.SIGSEGV)

    def _kill(self, view, images, labels, job):
        os.kill(os.getpid(), signal.SIGKILL)

    def _global_state(self, view, images, labels, job):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(2)
        torch.manual_seed(0)
        return images

    def _peek_global_state(self, view, images, labels, job):
        assert torch.get_default_dtype() == torch.float32
        assert torch.is_grad_enabled()
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
        return images


class Unspeakable(Exception):
    """An error that fails again when it is asked what it is."""

    def __str__(self):
        raise RuntimeError("no")


@dataclass(frozen=True, kw_only=True)
class Burglar(Attack):
    """Has access "macs" and asks for more."""

    access: ClassVar = "macs"

    door: Literal["outputs", "gradients", "price"] = "outputs"

    def perturb(self, view, images, labels, job):
        rows = torch.arange(len(images))
        if self.door == "outputs":
            view(images, rows)
        elif self.door == "gradients":
            view.gradients(lambda output: [output.margins.sum(1)], images, rows)
        else:
            view.price(torch.zeros(1, 3, dtype=torch.bool))
        return images


@dataclass(frozen=True, kw_only=True)
class Gambler(Attack):
    """Draws from the global stream, which nobody seeded for it."""

    def perturb(self, view, images, labels, job):
        return images + (torch.rand_like(images) - 0.5) * 0.05


class Unmade:
    """No attack at all: a plain class without perturb."""


@dataclass(frozen=True, kw_only=True)
class Abstract(Attack):
    """Forgot to write perturb."""
