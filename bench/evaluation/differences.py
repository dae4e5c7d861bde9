"""Where the MACs that a target declares and those that are counted differ, unit by unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bench.contracts.target import Target

MOST = 64
"""Units that are tried; each is executed twice."""
SHOWN = 12
"""Lines of the table."""

Counted = Callable[[Tensor], int]
"""(1, U) decisions -> MACs that ptflops counts when they are executed."""


Layered = Callable[[Tensor], Mapping[str, int]]
"""(1, U) decisions -> the same by layer."""


def explained(target: Target, counted: Counted, layered: Layered) -> str:
    """What a mistake in `macs` or `execute` looks like from outside.

    Args:
        target: whose `macs` and `execute` disagree.
        counted: executes and counts.
        layered: does so by layer.

    Returns:
        A sentence where `execute` leaves nothing out; else a table of what always runs and of the
        units that differ, declared against counted, with the layers of what always runs; "" where
        neither helps.
    """
    try:
        floor, ceiling = target.extremes()
        lowest, highest = counted(floor), counted(ceiling)
    except Exception:  # whoever asked has a better message
        return ""
    if lowest == highest and target.floor != target.ceiling:
        return (
            f"execute counts the ceiling ({highest}) every time, whatever the decisions: nothing "
            "is left out; skip the work of units that do not run instead of multiplying with 0"
        )
    rows = [("what always runs", _declared(target, floor), lowest)]
    for unit in range(min(len(target.units), MOST)):
        base = floor.clone()
        parent = int(target.units.after[unit])
        while parent >= 0:
            base[0, parent] = True
            parent = int(target.units.after[parent])
        with_it = base.clone()
        with_it[0, unit] = True
        if torch.equal(with_it, floor) or bool(floor[0, unit]):
            continue
        try:
            own = counted(with_it) - counted(base)
        except Exception:  # not admissible alone
            continue
        name = f"{target.units.kind[unit]} {target.units.name[unit]}"
        rows.append((name, _declared(target, with_it) - _declared(target, base), own))
    differing = [row for row in rows if row[1] != row[2]]
    if not differing:
        return ""
    always = rows[0] in differing
    layers = sorted(layered(floor).items(), key=lambda layer: -layer[1]) if always else []
    if len(layers) > SHOWN:
        rest = sum(macs for _, macs in layers[SHOWN:])
        layers = [*layers[:SHOWN], (f"{len(layers) - SHOWN} more", rest)]
    width = max(len(name) for name in [*(row[0] for row in differing), *dict(layers)])
    lines = [f"{'MACs of':<{width}}  {'declared':>12}  {'counted':>12}  difference"]
    lines += [
        f"{name:<{width}}  {said:>12}  {seen:>12}  {seen - said:+d}"
        for name, said, seen in differing[:SHOWN]
    ]
    if len(differing) > SHOWN:
        lines.append(f"… and {len(differing) - SHOWN} more")
    if layers:
        lines.append("what always runs, as counted by layer:")
        lines += [f"{name:<{width}}  {'':>12}  {macs:>12}" for name, macs in layers]
    return "\n".join(lines)


def _declared(target: Target, decisions: Tensor) -> int:
    return int(target.macs(decisions).sum())
