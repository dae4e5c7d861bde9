"""`gatebench cite`: how to cite gatebench, and the work that a result stands on."""

from __future__ import annotations

import re
from pathlib import Path

import click

from bench.terminal import page

BIBLIOGRAPHY = Path(__file__).with_name("citations.bib")
_IN_ANOTHER_PAPER = {"fixed-tokens": "dynamicvit"}
"""What is cited under another name."""
_ENTRY = re.compile(r"^@\w+\{([^,]+),.*?^\}$", re.MULTILINE | re.DOTALL)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
def cite(names: tuple[str, ...]) -> None:
    """Print BibTeX for gatebench and the papers behind what it runs.

    With names of networks, attacks or data sets that have a paper (skipnet, gradauto, cifar10 …):
    gatebench and only those.
    """
    from bench.errors import PlanError, did_you_mean

    known = bibliography()
    wanted = list(known) if not names else ["gatebench"]
    for name in names:
        key = _key(name, known)
        if key is None:
            raise PlanError(f"nothing to cite is called {name!r}{did_you_mean(name, known)}")
        wanted.append(key)
    page("\n\n".join(known[key] for key in dict.fromkeys(wanted)) + "\n")


def bibliography() -> dict[str, str]:
    """BibTeX entries by key, gatebench first."""
    from bench import __version__

    text = BIBLIOGRAPHY.read_text(encoding="utf-8")
    ours = (
        "@software{gatebench,\n"
        "  author  = {{The gatebench maintainers}},\n"
        "  title   = {gatebench: A Benchmark of Energy-Oriented Attacks "
        "on Dynamic Neural Networks},\n"
        f"  version = {{{__version__}}}\n"
        "}"
    )
    return {"gatebench": ours} | {match.group(1): match.group(0) for match in _ENTRY.finditer(text)}


def _key(name: str, known: dict[str, str]) -> str | None:
    """The key for a name as in a plan: "cifar100:test" is cited as cifar, "digits-m" as digits."""
    plain = name.lower().partition(":")[0]
    plain = _IN_ANOTHER_PAPER.get(plain, plain)
    return next(
        (
            key
            for key in known
            if plain == key or re.fullmatch(rf"{re.escape(key)}(\d+|-.*)", plain)
        ),
        None,
    )
