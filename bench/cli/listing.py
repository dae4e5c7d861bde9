"""`gatebench list`: what there is, and one thing taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from bench.terminal import cell, console, page, say

if TYPE_CHECKING:
    from bench.plugins.registry import Provider

KINDS = {
    "targets": "target",
    "attacks": "attack",
    "defenses": "defense",
    "datasets": "dataset",
    "suites": "suite",
    "weights": "weights",
    "recipes": "recipe",
}


@click.command("list")
@click.argument("kind", type=click.Choice(list(KINDS)), metavar="|".join(KINDS))
@click.argument("name", required=False)
def listing(kind: str, name: str | None) -> None:
    """List what there is of a KIND, or teach NAME: what it is, its parameters and presets.

    \b
    gatebench list attacks
    gatebench list attacks gradauto
    """
    if kind == "suites":
        _suites(name)
    elif kind == "weights":
        _weights(name)
    elif name is None:
        _all(KINDS[kind])
    else:
        _teach(KINDS[kind], name)


def _print_rows(rows: Sequence[Sequence[str]]) -> None:
    """A table without lines; the name is never cut, what follows takes what width is left."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(overflow="fold", max_width=40)
    table.add_column(overflow="fold")
    for cells in rows:
        table.add_row(*(cell(text, "" if i else "bold") for i, text in enumerate(cells)))
    console().print(table)


def _all(kind: str) -> None:
    from bench.errors import GatebenchError
    from bench.plugins import registry

    rows = []
    for provider, name in zip(registry.providers(kind), registry.names(kind), strict=True):
        try:
            facts = provider.facts(imports=False)
            presets = f" [presets: {', '.join(facts.presets)}]" if facts.presets else ""
            rows.append((name, facts.summary + presets))
        except GatebenchError as error:
            rows.append((name, f"not described: {error.message}"))
    _print_rows(rows or [("none", "no package provides any")])


_FACTS = (
    ("Unit", "unit"),
    ("Physically skipped", "skipped"),
    ("Follows", "follows"),
    ("Threats", "threats"),
    ("Needs from a target", "needs"),
    ("Cost of a step in forward-equivalents", "step_cost"),
    ("Access", "access"),
    ("Draws at random", "randomised"),
    ("Fits first, on other images", "fits"),
    ("Version", "version"),
    ("Images a split", "sizes"),
)
"""What a class declares about itself, as it is called here."""


def _teach(kind: str, name: str) -> None:
    from bench.plugins import registry

    provider = registry.find(kind, name.partition(":")[0])
    facts = provider.facts()
    _head(f"{provider.name} ({kind}, from {provider.distribution}, {provider.value})")
    say()
    page(f"{facts.doc}\n")
    known = facts.constants
    for title, key in _FACTS:
        if known.get(key):
            say(f"{title}: {'yes' if known[key] is True else known[key]}")
    for use, params in known.get("members", ()):
        given = "".join(f", {name} = {value!r}" for name, value in params.items())
        say(f"  member {use}{given}")
    if facts.parameters:
        say()
        _head("Parameters")
        for parameter in facts.parameters.values():
            say(f"  {parameter.describe()}")
    for preset, params in facts.presets.items():
        say()
        _head(f"Preset {provider.name}:{preset}")
        for key, value in params.items():
            say(f"  {key} = {value!r}")
    if kind == "target":
        _trained(provider)
    _example(provider, kind)


def _head(text: str) -> None:
    console().print(cell(text, "bold"), soft_wrap=True)


def _trained(provider: Provider) -> None:
    """The weights that are there for a network, and the recipes that make more."""
    from bench import weights
    from bench.cli.weights import percent
    from bench.plugins import registry

    there = [entry for entry in weights.entries().values() if entry.target == provider.name]
    if there:
        say()
        _head("Trained weights")
        for entry in there:
            saved = f", saves {percent(entry.clean_saving)}" if entry.clean_saving else ""
            say(f"  {entry.name}: accuracy {percent(entry.accuracy)}{saved}")
    recipes = sorted({entry.recipe for entry in there if entry.recipe in registry.names("recipe")})
    if provider.name in registry.names("recipe"):
        recipes = [provider.name]
    for recipe in recipes:
        say()
        say(f"Trained by: gatebench train {recipe}")


def _example(provider: Provider, kind: str) -> None:
    if kind in ("target", "attack", "defense"):
        extra = f'\nweights = "{_best_known(provider)}"' if kind == "target" else ""
        page(f'\nIn a plan\n\n[[{kind}]]\nuse = "{provider.name}"{extra}\n')
    elif kind == "recipe":
        say()
        say(f"Train it: gatebench train {provider.name} --help")


def _best_known(provider: Provider) -> str:
    """Weights for an example: some that are there, or a seeded initialization."""
    from bench import weights

    return next(
        (entry.name for entry in weights.entries().values() if entry.target == provider.name),
        "random:0",
    )


def _suites(name: str | None) -> None:
    from bench.plans import suites

    if name is None:
        _print_rows([(suite, suites.summary(path)) for suite, path in suites.found().items()])
    else:
        page(suites.find(name).read_text(encoding="utf-8"))


def _weights(name: str | None) -> None:
    from bench import weights

    if name is None:
        from bench.cli.weights import list_weights

        click.get_current_context().invoke(list_weights)
        return
    entry = weights.find(name)
    for key, value in vars(entry).items():
        if key != "folder" and value not in (None, "", {}):
            say(f"{key} = {value}")
