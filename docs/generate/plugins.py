"""The reference of built-in plugins, from what each class declares about itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.plans import suites
from bench.plugins import registry
from bench.plugins.declarations import describe_type
from bench.plugins.registry import HOME_DISTRIBUTION, Provider

HEAD = """\
# What comes along

Every built-in target, attack, defense, data set, recipe and suite, generated from their
declarations; `gatebench list KIND NAME` shows the same in a terminal, for installed plugins too.
"""
KINDS = {
    "target": "Targets",
    "attack": "Attacks",
    "defense": "Defenses",
    "dataset": "Data sets",
    "recipe": "Recipes",
}
FACTS = {
    "unit": "Unit",
    "skipped": "Left out",
    "follows": "Follows",
    "access": "Access",
    "threats": "Threats",
    "needs": "Needs",
    "step_cost": "Forward-equivalents a step",
    "sizes": "Images",
}


def render() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for kind, title in KINDS.items():
        parts.append(f"## {title}\n")
        for provider in registry.providers(kind):
            if provider.distribution == HOME_DISTRIBUTION:
                parts.append("\n".join(_section(provider)))
    rows = [f"| `{name}` | {suites.summary(path)} |" for name, path in suites.found().items()]
    parts.append("## Suites\n\n| suite | |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _section(provider: Provider) -> Iterator[str]:
    facts = provider.facts()
    yield f"### `{provider.name}` {{: #{provider.kind}-{provider.name} }}\n"
    yield f"{facts.summary}\n"
    yield from _facts(facts.constants)
    if facts.parameters:
        yield "| parameter | type | default |\n|---|---|---|"
        for parameter in facts.parameters.values():
            type_ = describe_type(parameter.annotation).replace(" | ", " or ")
            yield f"| `{parameter.name}` | `{type_}` | `{parameter.default!r}` |"
        yield ""
    for preset, params in facts.presets.items():
        shown = ", ".join(f"`{name} = {value!r}`" for name, value in params.items())
        yield f"Preset `{provider.name}:{preset}`: {shown}.\n"


def _facts(constants: Any) -> Iterator[str]:
    found = [
        f"- {title}: {_value(constants[key])}" for key, title in FACTS.items() if constants.get(key)
    ]
    if constants.get("randomised"):
        found.append("- Draws at random: another seed gives another result.")
    if constants.get("fits"):
        found.append("- Fits first, on images that are not scored.")
    if constants.get("control"):
        found.append("- A control: it is not ranked.")
    if found:
        yield "\n".join(found) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{each} {name}" for name, each in value.items())
    return str(value)
