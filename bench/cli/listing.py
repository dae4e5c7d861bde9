"""`gatebench list`: what there is, and one thing taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

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
    from rich.console import Console

    console = Console(highlight=False)
    if kind == "suites":
        _suites(console, name)
    elif kind == "weights":
        _weights(console, name)
    elif name is None:
        _all(console, KINDS[kind])
    else:
        _teach(console, KINDS[kind], name)


def _rows(console: Any, rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for cells in rows:
        table.add_row(*(Text(cell, style="bold" if i == 0 else "") for i, cell in enumerate(cells)))
    console.print(table)


def _all(console: Any, kind: str) -> None:
    from bench.errors import GatebenchError
    from bench.plugins import registry

    rows = []
    for provider, name in zip(registry.providers(kind), registry.names(kind), strict=True):
        try:
            facts = provider.facts()
            presets = f" [presets: {', '.join(facts.presets)}]" if facts.presets else ""
            rows.append((name, facts.summary + presets))
        except GatebenchError as error:
            rows.append((name, f"broken: {error.message}"))
    _rows(console, rows or [("none", "no package provides any")])


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

_ATTACKS = {"threats": "linf, l2, psnr, patch, none", "needs": "margins", "access": "gates"}
"""What an attack is that does not say otherwise (`bench.api.Attack`); read here without importing it."""


def _teach(console: Any, kind: str, name: str) -> None:
    from bench.plugins import registry

    provider = registry.find(kind, name.partition(":")[0])
    facts = provider.facts()
    console.print(
        f"{provider.name} ({kind}, from {provider.distribution}, {provider.value})\n",
        style="bold",
        markup=False,
    )
    console.print(facts.doc, markup=False, soft_wrap=True)
    known = {**(_ATTACKS if kind == "attack" else {}), **facts.constants}
    for title, key in _FACTS:
        if known.get(key):
            console.print(f"{title}: {'yes' if known[key] is True else known[key]}", markup=False)
    for use, params in known.get("members", ()):
        given = "".join(f", {name} = {value!r}" for name, value in params.items())
        console.print(f"  member {use}{given}", markup=False)
    if facts.parameters:
        console.print("\nParameters", style="bold")
        for parameter in facts.parameters.values():
            console.print(f"  {parameter.describe()}", markup=False)
    for preset, params in facts.presets.items():
        console.print(f"\nPreset {provider.name}:{preset}", style="bold", markup=False)
        for key, value in params.items():
            console.print(f"  {key} = {value!r}", markup=False)
    if kind == "target":
        _trained(console, provider)
    _example(console, provider, kind)


def _trained(console: Any, provider: Provider) -> None:
    """The weights that are there for a network, and the recipes that make more."""
    from bench import weights
    from bench.cli.weights import percent
    from bench.plugins import registry

    there = [entry for entry in weights.entries().values() if entry.target == provider.name]
    if there:
        console.print("\nTrained weights", style="bold")
        for entry in there:
            saved = f", saves {percent(entry.clean_saving)}" if entry.clean_saving else ""
            console.print(
                f"  {entry.name}: accuracy {percent(entry.accuracy)}{saved}", markup=False
            )
    recipes = sorted({entry.recipe for entry in there if entry.recipe in registry.names("recipe")})
    if provider.name in registry.names("recipe"):
        recipes = [provider.name]
    for recipe in recipes:
        console.print(f"\nTrained by: gatebench train {recipe}", markup=False)


def _example(console: Any, provider: Provider, kind: str) -> None:
    if kind in ("target", "attack", "defense"):
        extra = f'\nweights = "{_best_known(provider)}"' if kind == "target" else ""
        console.print(f'\nIn a plan\n\n[[{kind}]]\nuse = "{provider.name}"{extra}', markup=False)
    elif kind == "recipe":
        console.print(f"\nTrain it: gatebench train {provider.name} --help", markup=False)


def _best_known(provider: Provider) -> str:
    """Weights for an example: some that are there, or a seeded initialisation."""
    from bench import weights

    return next(
        (entry.name for entry in weights.entries().values() if entry.target == provider.name),
        "random:0",
    )


def _suites(console: Any, name: str | None) -> None:
    from bench.plans import suites

    if name is None:
        _rows(console, [(suite, suites.summary(path)) for suite, path in suites.found().items()])
    else:
        console.print(suites.find(name).read_text(encoding="utf-8"), markup=False)


def _weights(console: Any, name: str | None) -> None:
    from bench import weights

    if name is None:
        from bench.cli.weights import list_weights

        click.get_current_context().invoke(list_weights)
        return
    entry = weights.find(name)
    for key, value in vars(entry).items():
        if key != "folder" and value not in (None, "", {}):
            console.print(f"{key} = {value}", markup=False)
