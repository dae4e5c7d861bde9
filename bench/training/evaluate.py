"""A trained network on all clean images of a split.

The numbers that go into its manifest and its record.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import torch

from bench.contracts.dataset import Dataset, Part
from bench.contracts.target import Target
from bench.contracts.units import Units
from bench.errors import WeightsError


@dataclass(frozen=True)
class Measured:
    """A target on all clean images of a split, in float32.

    Attributes:
        accuracy: share of images classified rightly.
        clean_saving: 1 - mean executed MACs / ceiling.
        spread: standard deviation over images of executed MACs / ceiling.
        ceiling: MACs.
        rates: of each unit, the share of images that run it.
        opening_rates: of each owner of units, the mean of their rates.
        owners: (name, kind, shape, number of units) of each owner, in order.
        gates_varying: how many units open between 5 % and 95 % of the time.
    """

    accuracy: float
    clean_saving: float
    spread: float
    ceiling: int
    rates: tuple[float, ...]
    opening_rates: tuple[float, ...]
    owners: tuple[tuple[str, str, tuple[int, ...], int], ...]
    gates_varying: int


def measure(target: Target, data: Dataset | Part, *, batch: int = 100) -> Measured:
    """Evaluate a target, in evaluation mode, on every image of a split, without autocast.

    A random target draws once an image, from a seed of the image's place.

    Raises:
        WeightsError: what it says of an image is no number.
    """
    target.eval()
    device = next((parameter.device for parameter in target.parameters()), torch.device("cpu"))
    right, macs, decisions = [], [], []
    with torch.no_grad():
        for start in range(0, len(data), batch):
            rows = range(start, min(start + batch, len(data)))
            images = (data.images(rows).to(torch.float32) / 255).to(device)
            seeds = torch.arange(start, rows.stop)
            with target.evaluating(seeds=seeds), torch.autocast(device.type, enabled=False):
                output = target(images)
            if not bool(torch.isfinite(output.logits).all()):
                raise WeightsError(
                    "the logits of the network are not finite",
                    hint="a variance below 0 in its normalization, or weights that overflow?",
                )
            right.append(output.logits.argmax(1).cpu() == data.labels[start : rows.stop])
            macs.append(target.macs(output.decisions).cpu())
            decisions.append(output.decisions.cpu())
    spent = torch.cat(macs).to(torch.float64) / target.ceiling
    rates = torch.cat(decisions).to(torch.float64).mean(0)
    owners = owners_of(target.units)
    means = (
        [float(part.mean()) for part in rates.split([count for *_, count in owners])]
        if owners
        else []
    )
    return Measured(
        accuracy=round(float(torch.cat(right).to(torch.float64).mean()), 6),
        clean_saving=round(1 - float(spent.mean()), 6),
        spread=round(float(spent.std(correction=0)), 6),
        ceiling=target.ceiling,
        rates=tuple(round(rate, 4) for rate in rates.tolist()),
        opening_rates=tuple(round(rate, 4) for rate in means),
        owners=owners,
        gates_varying=int(((rates > 0.05) & (rates < 0.95)).sum()),
    )


def owners_of(units: Units) -> tuple[tuple[str, str, tuple[int, ...], int], ...]:
    """(name, kind, shape, number of units) of each owner.

    Consecutive units with the same `owner`.
    """
    rows = zip(units.owner, units.kind, units.shape, strict=True)
    return tuple((*row, len(list(same))) for row, same in groupby(rows))


def doubts(measured: Measured, classes: int) -> list[str]:
    """What makes weights look as if they were loaded into another network than the trained one.

    Args:
        measured: on clean images.
        classes: K, that the network tells apart.

    Returns:
        Sentences; none where all is plausible.
    """
    found = []
    if measured.accuracy < 1.5 / classes:
        found.append(
            f"accuracy {100 * measured.accuracy:.1f} % is that of guessing among {classes}: "
            "another normalization, another order of the classes, or other parameters than in "
            "training (--set)?"
        )
    if measured.rates and not measured.gates_varying:
        rates = set(measured.rates)
        state = "open" if rates == {1.0} else "closed" if rates == {0.0} else "nearly constant"
        found.append(
            f"no gate decides anything: all {len(measured.rates)} units are {state}; the threshold "
            "is probably not the one of the training (--set)"
        )
    elif measured.rates:
        means = zip(measured.owners, measured.opening_rates, strict=True)
        stuck = [name for (name, *_), rate in means if rate in (0.0, 1.0)]
        if 2 * len(stuck) > len(measured.owners):
            found.append(
                f"{len(stuck)} of {len(measured.owners)} gates never decide anything (first "
                f"{stuck[0]}); is the threshold the one of the training?"
            )
    return found
