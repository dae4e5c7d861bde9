"""What an attack step costs beside the bare network: one forward and two input gradients,
interleaved in one process.

    python -m benchmarks.steps [--batch 32] [--repeats 9] [--depth 20 --depth 38]

A step is what GradAuto's published loop (`gradauto:code`) really does, on the equivalent network
that attacks are given:
the counted view, both losses, the rectifications, the optimizer, the projection. The bare network
is the plain twin of the
family, neither gated nor folded nor counted. Times are of the processor, so that other work on
the machine counts little. Column "least" is the ratio of the convolutions that the step cannot do
without. The command ends with 1 where a ratio is above column "at most".
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

import torch
from torch import Tensor

from attacks.box import Clamp, Point
from attacks.gradauto import GradAuto
from attacks.optimizer import OPTIMIZERS
from attacks.rules import Incidents
from bench.api import Job, Output, Target, Threat
from bench.evaluation.passes import gradient_pass
from bench.evaluation.view import TargetView
from bench.executors.memory import keep_freed_memory
from bench.store.provenance import deterministic
from targets.defenses.cap import Capped
from targets.defenses.jpeg import JPEG
from targets.defenses.monitor import Monitor
from targets.defenses.smoothing import RandomisedSmoothing
from targets.defenses.transforms import BitDepth, GaussianBlur, Median
from targets.manidp import ManiDP
from targets.resnet import ResNet
from targets.sact import SACT
from targets.sdn import SDN
from targets.skipnet import SkipNet

BUDGET = 10**9
CODE = GradAuto(**{**GradAuto.presets["code"], "box": "clamp"})


class Forced(SkipNet):
    """A SkipNet whose decisions are given, so that a measurement knows what ran; its gates
    still have gradients.
    """

    wish: Tensor

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        return _both_losses(super().forward(images, self.wish[: len(images)]))


def _both_losses(seen: Output) -> Output:
    """Every image has one gate to open and one to keep, so that both losses ask for a backward
    pass.
    """
    wanted = torch.tensor([-2.0, 2.0])

    def moved(margins: Tensor) -> Tensor:
        shift = torch.zeros_like(margins)
        shift[:, :2] = wanted - margins[:, :2].detach()
        return margins + shift

    return replace(seen, margins=moved(seen.margins), logit_margins=moved(seen.logit_margins))


class ForcedSACT(SACT):
    """A SACT for which both losses ask for a backward pass."""

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        return _both_losses(super().forward(images, decisions))


class ForcedManiDP(ManiDP):
    """A ManiDP for which both losses ask for a backward pass."""

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        return _both_losses(super().forward(images, decisions))


class ForcedSDN(SDN):
    """An SDN for which both losses ask for a backward pass."""

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        return _both_losses(super().forward(images, decisions))


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: for people.
        target: that is attacked.
        bare: the plain network.
        bound: what the ratio may be at most, where something is promised.
        share: of the blocks' evaluations that run, where that is known.
        closed: whether blocks that do not run are evaluated for the gradient of their masks.
    """

    name: str
    target: Target
    bare: Target
    bound: float | None = None
    share: float | None = None
    closed: bool = False


@dataclass(frozen=True)
class Ratio:
    """What was measured: medians, in seconds of the processor.

    Attributes:
        least: ratio of the convolutions alone that the step cannot do without (`least_work`).
    """

    name: str
    step: float
    bare: float
    ratio: float
    least: float | None
    bound: float | None


def cases(depths: tuple[int, ...], batch: int) -> Iterator[Case]:
    """SkipNet by depth, share of open gates and kind of masks; the other families; each defense."""
    for depth in depths:
        bare = _frozen(ResNet(depth=depth))
        for name, share, mask, bound in (
            ("all gates open, hard masks", 1.0, "hrl", 1.0),
            ("all gates open, straight-through", 1.0, "sp", 1.0),
            ("half of the blocks skipped, hard masks", 0.5, "hrl", 0.7),
            ("half of the blocks skipped, straight-through", 0.5, "sp", None),
        ):
            net = _frozen(Forced(depth=depth, form=mask))  # type: ignore[arg-type]
            net.wish = torch.rand(batch, len(net.units)) < share
            blocks = len(net.places)
            runs = (1 + float(net.wish.float().mean()) * (blocks - 1)) / blocks
            yield Case(f"SkipNet-{depth}, {name}", net, bare, bound, runs, mask == "sp")
    yield Case("SACT-20", _frozen(ForcedSACT(depth=20)), _frozen(SACT(depth=20, halting="none")))
    yield Case("ManiDP-20", _frozen(ForcedManiDP(depth=20)), _frozen(ResNet(depth=20)))
    yield Case(
        "SDN on ResNet-20",
        _frozen(ForcedSDN(backbone="resnet-20", threshold=0.5)),
        _frozen(SDN(backbone="resnet-20", exits="none")),
    )
    bare = _frozen(ResNet(depth=20))
    for name, target in defended(batch):
        yield Case(f"SkipNet-20 with {name}", _frozen(target), bare)


def defended(batch: int) -> Iterator[tuple[str, Target]]:
    """SkipNet-20 with all gates open behind each defense."""

    def net() -> Forced:
        made = _frozen(Forced(depth=20, form="hrl"))
        made.wish = torch.ones(batch, len(made.units), dtype=torch.bool)
        return made

    for defense in (JPEG(), BitDepth(), Median(), GaussianBlur(), RandomisedSmoothing(draws=2)):
        yield type(defense).__name__, defense.wrap(net())
    yield "Cap", Capped(net(), net().ceiling)
    watched = Monitor(false_alarms=0.5)
    yield "Monitor", watched.wrap(net(), watched.fit(net(), torch.rand(batch, 3, 32, 32)))


Net = TypeVar("Net", bound=Target)


def _frozen(target: Net) -> Net:
    return target.eval().requires_grad_(False)


def attack_step(target: Target, images: Tensor) -> Callable[[], None]:
    """One whole step of the attack, ready to be called again and again."""
    view = TargetView.of(target, images, BUDGET).using(CODE.mask_grad, draws=1)
    job = Job(Threat("psnr", Fraction(35)), BUDGET, tuple(map(str, range(len(images)))))
    rule, optimizer = CODE.step_rule(view, images, Incidents()), OPTIMIZERS[CODE.optimiser](CODE.lr)
    box, rows, share = Clamp(), torch.arange(len(images)), torch.ones(len(images))

    def step() -> None:
        point: Point = box.place(images, images, job.threat)
        seen = rule.evaluate(point, rows, share)
        view.price(seen.output.decisions)
        box.place(point.free - optimizer.step(seen.gradient), images, job.threat)

    return step


def bare_pass(target: Target, images: Tensor) -> Callable[[], None]:
    """One forward and two input gradients of the plain network, on the terms of an attack's."""

    def run() -> None:
        inputs = images.clone().requires_grad_()
        with gradient_pass():
            logits = target(inputs).logits
            for k in range(2):
                torch.autograd.grad(logits[:, k].sum(), inputs, retain_graph=k == 0)

    return run


def least_work(target: Target, images: Tensor, share: float, closed: bool) -> Callable[[], None]:
    """The convolutions of a step in a network without gates: rows stand for blocks that run.

    Args:
        target: the plain network, folded.
        images: (N, C, H, W).
        share: of the blocks' evaluations that run: so many rows have a forward pass and two input
            gradients.
        closed: whether the others have a forward pass.
    """
    count = round(share * len(images))
    some, others = bare_pass(target, images[:count]), images[count:]

    def run() -> None:
        some()
        if closed and len(others):
            with gradient_pass(), torch.no_grad():
                target(others)

    return run


def measure(case: Case, batch: int, repeats: int) -> Ratio:
    """Medians over interleaved repeats; two rounds beforehand are not counted."""
    images = torch.rand(batch, *case.target.image_shape)
    step = attack_step(_frozen(case.target.equivalent()), images)
    bare = bare_pass(case.bare, images)
    works = [step, bare]
    if case.share is not None:
        folded = _frozen(case.bare.equivalent())
        works.append(least_work(folded, images, case.share, case.closed))
    rounds = [[_seconds(work) for work in works] for _ in range(repeats + 2)][2:]
    return Ratio(
        case.name,
        statistics.median(times[0] for times in rounds),
        statistics.median(times[1] for times in rounds),
        statistics.median(times[0] / times[1] for times in rounds),
        None if case.share is None else statistics.median(times[2] / times[1] for times in rounds),
        case.bound,
    )


def _seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> int:
    """Print the table; 1 where a bound does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--depth", type=int, action="append")
    options = parser.parse_args()
    keep_freed_memory()  # as every worker does
    deterministic(1)
    torch.manual_seed(0)
    print(f"{options.batch} images, 1 thread, medians of {options.repeats}\n")
    print("| step of `gradauto:code` | step, ms | bare, ms | ratio | least | at most |")
    print("|---|---:|---:|---:|---:|---:|")
    held = True
    for case in cases(tuple(options.depth or (20, 38)), options.batch):
        found = measure(case, options.batch, options.repeats)
        bound, least = (
            "" if number is None else f"{number:.2f}" for number in (found.bound, found.least)
        )
        held &= found.bound is None or found.ratio <= found.bound
        print(
            f"| {found.name} | {1e3 * found.step:.0f} | {1e3 * found.bare:.0f} "
            f"| {found.ratio:.2f} | {least} | {bound} |",
            flush=True,
        )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
