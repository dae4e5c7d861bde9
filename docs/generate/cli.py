"""The command-line reference, from the commands themselves."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterator

import click

from bench.cli import COMMANDS, cli
from bench.errors import EXIT_CODES

HEAD = """\
# Command-line reference

`gatebench COMMAND --help` shows the same in a terminal; this page is generated from the commands.
`python -m bench` is the same as `gatebench`. Mistakes are reported with the nearest valid name.
"""


def render() -> str:
    """The page as Markdown."""
    top = click.Context(cli, info_name="gatebench")
    parts = [HEAD, _text(cli.help or ""), _commands_table(), *_exit_codes()]
    for name in COMMANDS:
        command = cli.get_command(top, name)
        assert command is not None
        parts += _section(command, click.Context(command, info_name=name, parent=top), level=2)
    return "\n".join(part.strip() + "\n" for part in parts)


def _commands_table() -> str:
    rows = [f"| [`{name}`](#gatebench-{name}) | {text} |" for name, text in COMMANDS.items()]
    return "## Commands\n\n| command | |\n|---|---|\n" + "\n".join(rows)


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes\n\n| code | |\n|---|---|\n" + "\n".join(
        f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()
    )


def _section(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield f"{'#' * level} {context.command_path}\n\n```text\n{' '.join(usage.split())}\n```"
    yield _text(command.help or "")
    rows = [_option(parameter, context) for parameter in command.get_params(context)]
    shown = [row for row in rows if row]
    if shown:
        yield "| option | meaning |\n|---|---|\n" + "\n".join(shown)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _section(
                inner, click.Context(inner, info_name=name, parent=context), level + 1
            )


def _option(parameter: click.Parameter, context: click.Context) -> str:
    record = parameter.get_help_record(context)
    if record is None or "--help" in parameter.opts:
        return ""
    names, text = record
    return (
        f"| <code>{html.escape(names, quote=False).replace('|', '&#124;')}</code> | {_cell(text)} |"
    )


def _cell(text: str) -> str:
    """Text that may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _text(help_text: str) -> str:
    """Paragraphs as they are; those that click keeps line by line become blocks of code."""
    found = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(help_text)):
        if not paragraph.startswith("\b"):
            found.append(" ".join(paragraph.split()))
            continue
        head, lines = [], paragraph.removeprefix("\b").strip("\n").splitlines()
        while lines and lines[0].rstrip().endswith(":") and not lines[0].startswith(" "):
            head.append(lines.pop(0).strip())
        found += head
        found.append("```text\n" + inspect.cleandoc("\n".join(lines)) + "\n```")
    return "\n\n".join(found)
