"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.files.settings import settings
from bench.terminal import page

if TYPE_CHECKING:
    from bench.plans.plan import Plan
    from bench.runs.execute import RunRequest

Command = Callable[..., Any]


def device_option(what: str) -> Callable[[Command], Command]:
    """--device of a command that evaluates what a run left behind.

    Args:
        what: it does there, the beginning of the help.
    """
    return click.option(
        "--device",
        default=lambda: settings().device or "cpu",
        help=f"{what}: cpu, cuda, mps; default: cpu, or as your config.toml says.",
    )


def data_root_option(why: str = "") -> Callable[[Command], Command]:
    """--data-root of a command that reads what a run left behind.

    Args:
        why: it is needed, the end of the help.
    """
    return click.option(
        "--data-root",
        type=click.Path(),
        default=lambda: settings().data_root,
        help=f"Where the data set lies{why}.",
    )


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
        click.option(
            "--device",
            metavar="DEVICE",
            help='"auto", "cpu", "cuda", "cuda:1", "mps"; same as --set run.device=….',
        ),
        click.option(
            "--images", type=click.IntRange(min=1), help="Same as --set protocol.images=N."
        ),
        click.option(
            "--only",
            multiple=True,
            metavar="TEXT",
            help="Only cells with TEXT in their label; may be repeated. A run of the whole plan "
            "goes on with these cells.",
        ),
        click.argument("plan_source", metavar="[PLAN]", default="bench.toml"),
    ):
        command = add(command)
    return command


def run_options(command: Command) -> Command:
    """The options of whatever runs a plan: PLAN's own, where the run lies, and how to go on."""
    for add in (
        click.option(
            "--in-process",
            is_flag=True,
            help="No workers: everything in this process, for debuggers; deadlines do not hold.",
        ),
        click.option(
            "--keep",
            is_flag=True,
            help="Go on although finished shards were made in another environment.",
        ),
        click.option(
            "--fresh", is_flag=True, help="Throw away what is there and compute everything again."
        ),
        click.option(
            "--data-root",
            type=click.Path(path_type=Path),
            default=lambda: settings().data_root,
            help="Where the data set lies; enters no key and no result.",
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path, file_okay=False),
            default=lambda: settings().out,
            help="Folder of all runs; default: runs, or as your config.toml says.",
        ),
        click.option(
            "--name",
            metavar="NAME",
            help="Of the run; default: the protocol's plus six digits of the plan's hash.",
        ),
        plan_options,
    ):
        command = add(command)
    return command


def read_plan(
    plan_source: str,
    only: Sequence[str],
    images: int | None,
    device: str | None,
    overrides: Sequence[str],
) -> Plan:
    """The plan that the arguments of `plan_options` name."""
    from bench.plans.resolve import load_plan

    extra = [f"protocol.images={images}"] if images is not None else []
    extra += [f'run.device="{device}"'] if device is not None else []
    plan = load_plan(plan_source, overrides=[*overrides, *extra], only=only)
    preferred = settings().device
    if plan.options.device != "auto" or device is not None or preferred is None:
        return plan
    again = [*overrides, *extra, f'run.device="{preferred}"']
    return load_plan(plan_source, overrides=again, only=only)


def batch_words(plan: Plan) -> str:
    """What is said of a batch that the plan does not name; "" where it names one."""
    if not plan.batch_for:
        return ""
    return f"batch {plan.batch}, taken for {plan.batch_for}; protocol.batch names another"


def run_request(
    *,
    plan_source: str,
    only: Sequence[str],
    images: int | None,
    device: str | None,
    overrides: Sequence[str],
    name: str | None,
    out: Path,
    data_root: Path | None,
    fresh: bool,
    keep: bool,
    in_process: bool,
    share: str | None = None,
) -> RunRequest:
    """What the arguments of `run_options` ask for."""
    from bench.runs.execute import RunRequest
    from bench.runs.share import parse_share

    plan = read_plan(plan_source, only, images, device, overrides)
    if plan.batch_for == "cuda":  # elsewhere the same plan would take another one
        overrides = [*overrides, f"protocol.batch={plan.batch}"]
    words = [command_line(plan_source, images, overrides), *(f"--only {part!r}" for part in only)]
    return RunRequest(
        plan=plan,
        command=" ".join(words),
        out=out,
        name=name,
        data_root=data_root,
        fresh=fresh,
        keep=keep,
        in_process=in_process,
        share=None if share is None else parse_share(share),
        whole=None
        if share is not None or not only
        else read_plan(plan_source, (), images, device, overrides),
    )


def command_line(plan_source: str, images: int | None, overrides: Sequence[str]) -> str:
    """What to type to get the same plan again; data roots and devices do not affect results."""
    import shlex

    words = ["gatebench", "run", plan_source]
    words += ["--images", str(images)] if images is not None else []
    for override in overrides:
        if not override.startswith("run."):
            words += ["--set", override]
    return shlex.join(words)


_ANOTHER = "name another file"


def emit(place: str | None, content: str | bytes) -> None:
    """Write a document to a file, whole or not at all; "-" is the terminal.

    Args:
        place: of the file; its folder is made where it is not there. None writes nothing.
        content: the whole document.
    """
    from bench.files.atomic import write_atomic
    from bench.files.writing import make_folder

    if place is None:
        return
    data = content.encode() if isinstance(content, str) else content
    if place == "-":
        page(data.decode())
    else:
        make_folder(Path(place).parent, elsewhere=_ANOTHER)
        write_atomic(Path(place), data, elsewhere=_ANOTHER)


def as_json(document: Any) -> str:
    """A document as the files of a run are written."""
    import json

    return (
        json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )
