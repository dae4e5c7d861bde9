"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bench.plan import Plan

Command = Callable[..., Any]


def plan_options(command: Command) -> Command:
    """PLAN and the options that change what it comes to."""
    for add in (
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help='Override, for example protocol.threat={norm="linf",eps="8/255"}.',
        ),
        click.option("--device", metavar="DEVICE", help='"auto", "cpu", "cuda", "cuda:1", "mps"; same as --set run.device=….'),
        click.option("--images", type=click.IntRange(min=1), help="Same as --set protocol.images=N."),
        click.option("--only", multiple=True, metavar="TEXT", help="Only cells with TEXT in their label; may be repeated."),
        click.argument("plan_source", metavar="[PLAN]", default="bench.toml"),
    ):
        command = add(command)
    return command


def read_plan(plan_source: str, only: Sequence[str], images: int | None, device: str | None, overrides: Sequence[str]) -> Plan:
    """The plan that the arguments of `plan_options` name."""
    from bench.config import load_plan

    extra = [f"protocol.images={images}"] if images is not None else []
    extra += [f'run.device="{device}"'] if device is not None else []
    return load_plan(plan_source, overrides=[*overrides, *extra], only=only)


def command_line(plan_source: str, images: int | None, overrides: Sequence[str]) -> str:
    """What to type to get the same plan again; data roots and devices are nobody's business."""
    import shlex

    words = ["gatebench", "run", plan_source]
    words += ["--images", str(images)] if images is not None else []
    for override in overrides:
        if not override.startswith("run."):
            words += ["--set", override]
    return shlex.join(words)
