"""What a plan says of its targets, defenses and attacks, compared with the plugins themselves."""

from __future__ import annotations

from collections.abc import Iterator

from bench.contracts.cell import HANDED_IN, Component
from bench.errors import GatebenchError
from bench.plans.components import declared_here
from bench.verify.findings import short

_SAID = ("value", "version", "control", "fits", "params")


def component_problems(kind: str, component: Component) -> Iterator[str]:
    """What the plan says of a component otherwise than its plugin does here, in words.

    Args:
        kind: "target", "defense" or "attack".
        component: as the plan has it.
    """
    if component.distribution == HANDED_IN:
        return
    who = f"{kind} {component.label}"
    try:
        made = declared_here(kind, component)
    except GatebenchError as error:
        yield f"{who}: what plan.json says of it cannot be checked: {error.message}"
        return
    for name in _SAID:
        said, own = getattr(component, name), getattr(made, name)
        if said != own:
            yield f"{who}: plan.json says {name} = {short(said)}, the plugin has {short(own)}"
    members = [[one.identity() for one in part.members] for part in (component, made)]
    if members[0] != members[1]:
        yield f"{who}: plan.json names other members than the plugin has"
