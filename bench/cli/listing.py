"""`gatebench list`: what there is, and one thing taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import as_json, emit
from bench.terminal import (
    LONGEST_LINE,
    FittedColumn,
    FittedTable,
    cell,
    console,
    page,
    percent,
    say,
)

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
@click.argument("kind", required=False, type=click.Choice(list(KINDS)), metavar="|".join(KINDS))
@click.argument("name", required=False)
@click.option("--json", "json_file", metavar="FILE", help='Write it as JSON; "-" is the terminal.')
def listing(kind: str | None, name: str | None, json_file: str | None) -> None:
    """List what there is of a KIND, or teach NAME: what it is, its parameters and presets.

    Without a KIND, an overview of everything.

    \b
    gatebench list
    gatebench list attacks
    gatebench list attacks gradauto
    """
    if json_file is not None:
        emit(json_file, as_json(_document(kind, name)))
        return
    if kind is None:
        _overview()
    elif kind == "suites":
        _suites(name)
    elif kind == "weights":
        _weights(name)
    elif name is None:
        _all(KINDS[kind])
    else:
        _teach(KINDS[kind], name)


def _names(kind: str) -> list[str]:
    """What there is of a kind, by name."""
    if kind == "suite":
        from bench.plans import suites

        return list(suites.found())
    if kind == "weights":
        from bench import weights

        return list(weights.entries())
    from bench.plugins import registry

    return registry.names(kind)


def _overview() -> None:
    """All kinds with the names that there are, and how to go on."""
    _print_rows(
        [
            (f"{plural} ({len(names)})", ", ".join(names) or "none")
            for plural, names in ((plural, _names(kind)) for plural, kind in KINDS.items())
        ]
    )
    say("'gatebench list KIND' says what each is, 'gatebench list KIND NAME' teaches one")


def _document(kind: str | None, name: str | None) -> dict[str, Any]:
    """What `--json` writes: names, or what one thing is."""
    from bench.plugins import registry

    if kind is None:
        return {plural: _names(one) for plural, one in KINDS.items()}
    singular = KINDS[kind]
    if kind == "weights":
        from bench import weights

        entries = weights.entries() if name is None else {name: weights.find(name)}
        return {
            each: {
                **{key: value for key, value in vars(entry).items() if key != "folder"},
                "parts": [{"prefix": part.prefix, **part.table()} for part in entry.parts],
            }
            for each, entry in entries.items()
        }
    if kind == "suites":
        from bench.plans import suites

        found = suites.found() if name is None else {name: suites.find(name)}
        return {each: {"summary": suites.summary(path)} for each, path in found.items()}
    names = _names(singular) if name is None else [name]
    return {
        each: _facts_document(registry.find(singular, each.partition(":")[0])) for each in names
    }


def _facts_document(provider: Provider) -> dict[str, Any]:
    facts = provider.facts()
    return {
        "provider": f"{provider.distribution}/{provider.name}",
        "value": provider.value,
        "summary": facts.summary,
        "parameters": {one.name: one.describe() for one in facts.parameters.values()},
        "presets": {preset: dict(params) for preset, params in facts.presets.items()},
    }


def _print_rows(rows: Sequence[Sequence[str]]) -> None:
    """A table without lines; a name that is too wide is folded at its joints, never cut."""
    out = console()
    names = (FittedColumn("name", name=True), FittedColumn("what", name=True))
    plain = [
        [cell(text, "" if i else "bold", LONGEST_LINE) for i, text in enumerate(row)]
        for row in rows
    ]
    out.print(FittedTable(names, plain, out.width).table(heads=False))


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
