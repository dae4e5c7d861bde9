"""What an attack step costs beside the bare network: forward plus as many input gradients, in one
process, interleaved.

    python benchmarks/attack_step.py [--depth 20] [--batch 32] [--repeats 30] [--threads 1]

The bare network is the plain residual network of the same depth and weights, no gate, no mask, no
harness. A step is what GradAuto really does: the counted view, both losses, the rectifications, the
optimizer, the projection. Printed are medians of times and of the ratio of neighbours; a ratio is
at most 1.10 with all gates open and hard masks, 1.40 with straight-through masks, and below 1 where
blocks are skipped under hard masks. Ends with 1 where a bound does not hold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from attacks.box import Clamp, Point
from attacks.gradauto import GradAuto
from attacks.optimizer import OPTIMIZERS
from attacks.rules import Incidents
from bench.api import Job, Output
from bench.contracts.threat import Threat
from bench.evaluation.view import TargetView
from bench.executors.memory import keep_freed_memory
from targets.skipnet import SkipNet

BUDGET = 10**9
CASES = [
    ("all gates open, hard masks", 1.0, "none", 1.10),
    ("all gates open, straight-through", 1.0, "ste", 1.40),
]
SKIPPED = ("half of the blocks skipped, hard masks", 0.5, "none", 1.00)


class Forced(SkipNet):
    """A SkipNet whose decisions are given, so that a measurement knows what ran; its gates still
    have gradients."""

    wish: Tensor

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        seen = super().forward(images, self.wish[: len(images)])
        # every image has one gate to open and one to keep, so that both losses ask for a backward
        # pass
        shift = torch.zeros_like(seen.margins)
        shift[:, 0], shift[:, 1] = -2, 2
        return replace(seen, margins=seen.margins + shift, logit_margins=seen.logit_margins + shift)


def bare_pass(net: SkipNet, images: Tensor, gradients: int) -> None:
    """The plain network: one forward and `gradients` input gradients."""
    inputs = images.clone().requires_grad_()
    x = net.stem(inputs)
    for point in net.places:
        x = net.get_submodule(point.layer)(x, net.shortcut(point, x))
    logits = net.head(x)
    losses = [logits[:, k].sum() for k in range(gradients)]
    for k, loss in enumerate(losses):
        torch.autograd.grad(loss, inputs, retain_graph=k < gradients - 1)


def attack_step(net: Forced, images: Tensor, attack: GradAuto) -> Callable[[], None]:
    """One whole step of the attack, ready to be called again and again."""
    view = TargetView.of(net, images, BUDGET).using(attack.mask_grad)
    job = Job(Threat("psnr", Fraction(35)), BUDGET, tuple(map(str, range(len(images)))))
    rule, box, optimizer = (
        attack.step_rule(view, images, Incidents()),
        Clamp(),
        OPTIMIZERS[attack.optimiser](attack.lr),
    )
    rows, share = (
        torch.arange(len(images), device=images.device),
        torch.zeros(len(images), device=images.device),
    )

    def step() -> None:
        point: Point = box.place(images, images, job.threat)
        seen = rule.evaluate(point, rows, share)
        view.price(seen.output.decisions)
        box.place(point.free - optimizer.step(seen.gradient), images, job.threat)

    return step


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(
    net: Forced, images: Tensor, attack: GradAuto, repeats: int
) -> tuple[float, float, float]:
    """(step seconds, bare seconds, ratio), medians over interleaved repeats."""
    step, gradients = attack_step(net, images, attack), 1 + attack.rd

    def bare() -> None:
        bare_pass(net, images, gradients)

    for _ in range(3):
        step(), bare()
    pairs = [(seconds(step), seconds(bare)) for _ in range(repeats)]
    return tuple(
        statistics.median(column) for column in zip(*((s, b, s / b) for s, b in pairs), strict=True)
    )  # type: ignore[return-value]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    keep_freed_memory()  # as every worker does
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = Forced(depth=options.depth).eval().requires_grad_(False).to(device)
    images = torch.rand(options.batch, *net.image_shape, device=device)
    print(
        f"SkipNet-{options.depth}, {options.batch} images, {options.threads} thread(s), {device}, "
        f"medians of {options.repeats}"
    )
    print(f"{'case':42s} {'gradients':>9s} {'step':>9s} {'bare':>9s} {'ratio':>6s} {'bound':>6s}")
    held = True
    for name, share, mask_grad, bound in [*CASES, SKIPPED]:
        net.wish = torch.rand(options.batch, len(net.units), device=device) < share
        for rd in (False, True):
            attack = GradAuto(mask_grad=mask_grad, rd=rd)  # type: ignore[arg-type]
            step, bare, ratio = compare(net, images, attack, options.repeats)
            held &= ratio <= bound
            print(
                f"{name:42s} {1 + rd:9d} {1e3 * step:7.1f}ms {1e3 * bare:7.1f}ms {ratio:6.2f} "
                f"{bound:6.2f}"
            )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
