"""The commands of gatebench, one file each; heavy imports happen inside a command, never here."""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

try:
    import click

    from bench import __version__
    from bench.errors import EXIT_CODES, GatebenchError, did_you_mean, in_words
    from bench.terminal import outlets, page, say
except KeyboardInterrupt:  # Ctrl-C before anything was begun
    raise SystemExit(130) from None

COMMANDS = {
    "run": "Run a plan: attack, judge, count, rank, render.",
    "merge": "Unite runs: shares of one plan, or other targets and attacks.",
    "plan": "Show what a plan would run, without running it.",
    "list": "List targets, attacks, data sets and so on; explain one.",
    "show": "Print the table of a run.",
    "report": "Render the pages of one or more runs.",
    "publish": "Write the boards of several runs as a static site for any host.",
    "export": "Write boards for model hubs: results of models, a data set with card.",
    "beat": "Attack again, from the saved images of a row.",
    "submit": "Hand in: pack rows of a run as one archive.",
    "accept": "Judge what was handed in, and add it to a board.",
    "withdraw": "Take a row's numbers back; it stays with the reason.",
    "transfer": "Score the images of each target on all others.",
    "headroom": "Measure what ten times the budget would add.",
    "compare": "Compare two runs image by image.",
    "baseline": "Write what a run measured as a baseline to commit.",
    "check": "Run a plan and compare it with a baseline; fails when something got worse.",
    "verify": "Check the results of a run, and execute part of them again.",
    "latency": "Time targets and their defenses, side by side.",
    "train": "Train weights from a recipe.",
    "weights": "List, verify and import weights.",
    "plugin": "Start a plugin of your own, and test it against its contract.",
    "doctor": "Check the installation, devices and plugins.",
    "cite": "Print what to cite.",
}
"""Commands in the order of `--help`; each is the function of that name in `bench.cli.NAME`."""

_MODULES = {"list": "listing"}


class _Commands(click.Group):
    """Imports a command's file when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"bench.cli.{_MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = getattr(module, _MODULES.get(cmd_name, cmd_name))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not ctx.resilient_parsing:
            raise click.UsageError(
                f"there is no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}", ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="gatebench")
def cli() -> None:
    """Measure how much computation an attacker can win back from a dynamic neural network.

    \b
    Start here:
      gatebench run quickstart    attack trained networks of three families
      gatebench list attacks      what there is to attack with
      gatebench plan              what ./bench.toml would run, and how long
    """


_MAY_EXIT = (Path(__file__).parent, Path(click.__file__).parent)
"""Whose exits are meant: those of commands, and of click after it completed a line of a shell."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point: every error that a user can cause becomes one message and its exit code."""
    code = 6
    # NumPy multiplies small matrices here, for which threads that wait cost more than they do.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with outlets():
            code = _run(args)
    except OSError:  # the last lines could not be written; the stream said so already
        code = code or 6
    sys.exit(code)


def _run(args: Sequence[str] | None) -> int:
    """Run a command and return its exit code."""
    try:
        code = cli.main(
            args=list(args) if args is not None else None,
            prog_name="gatebench",
            standalone_mode=False,
        )
    except SystemExit as end:
        last = traceback.extract_tb(end.__traceback__)[-1]
        if not any(Path(last.filename).is_relative_to(place) for place in _MAY_EXIT):
            said = f"{in_words(end)} in {last.filename}, line {last.lineno}"
            return _fail(f"a plugin ended the command before it was done: {said}", 7)
        code = end.code
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _fail("stopped", 130)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        page(shown.getvalue(), err=True)
        return 2
    except GatebenchError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", 6)
    except Exception:  # told whole, with exit code 1
        say(traceback.format_exc(), err=True)
        return _fail("this is a mistake in gatebench or in a plugin; please report it", 1)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    say(f"gatebench: {message}", err=True)
    return code
