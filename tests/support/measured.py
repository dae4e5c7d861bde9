"""Baselines made by hand: what runs measured, without running anything."""

from dataclasses import replace

import numpy as np

from bench.contracts.cell import Fit
from bench.contracts.threat import parse_threat
from bench.regression.baseline import Baseline
from bench.regression.records import MeasuredBoard, MeasuredCell, Terms

CEILING = 1000
TERMS = Terms(
    dataset="digits-m:test",
    subset="abc",
    images=256,
    batch=32,
    threat=parse_threat({"norm": "psnr", "floor": 35}),
    budget=60,
    seed=0,
    audit=4,
    fit=Fit("train", 256, 30),
    fit_subset="",
)


def inputs(attack="gradauto", **params):
    return {
        "target": {
            "name": "gatebench/skipnet",
            "params": {"depth": 20},
            "version": 1,
            "weights": "w1",
        },
        "defense": None,
        "attack": {"name": f"gatebench/{attack}", "params": {"steps": 10, **params}, "version": 1},
    }


def cell(
    generator,
    n=256,
    *,
    target="net",
    defense="",
    attack="gradauto",
    control=False,
    clean=None,
    **params,
):
    """Realistic rows: ten blocks of a tenth of the ceiling, clean images run about six, the attack
    opens about two more."""
    if clean is None:
        clean = generator.binomial(10, 0.6, size=n), generator.random(n) < 0.95
    blocks, right = clean
    attacked = np.minimum(blocks + generator.binomial(4, 0.5, size=n), 10)
    return MeasuredCell(
        target=target,
        defense=defense,
        attack=attack,
        inputs=inputs(attack, **params),
        control=control,
        reference=CEILING,
        ceiling=CEILING,
        clean_macs=blocks * 100,
        adversarial_macs=attacked * 100,
        clean_correct=right,
        adversarial_correct=right & (generator.random(n) < 0.9),
    )


def baseline(cells, *, n=256, protocol=None, **others):
    part = MeasuredBoard(
        replace(TERMS, images=n, **(protocol or {})),
        tuple(f"i{k}" for k in range(n)),
        tuple(cells),
    )
    return Baseline(
        "plan",
        (part,),
        {"device": "cpu x86_64", "threads": 1, "versions": {"torch": "2"}, "gatebench": "0"},
        **others,
    )


def board(generator, n=256, targets=3, attacks=3):
    """Several targets under several attacks, whose clean rows each target's cells share."""
    cells = []
    for t in range(targets):
        clean = generator.binomial(10, 0.6, size=n), generator.random(n) < 0.95
        cells += [
            cell(generator, n, target=f"net{t}", attack=f"attack{a}", clean=clean)
            for a in range(attacks)
        ]
    return baseline(cells, n=n)


def with_cells(found, change):
    """The baseline with every cell changed."""
    boards = tuple(
        replace(part, cells=tuple(change(one) for one in part.cells)) for part in found.boards
    )
    return replace(found, boards=boards)


def redrawn(found, generator, share=0.3):
    """The same project with other luck: of some attacked images the attack opened one block more or
    less.

    An unchanged project is two of these, never a base and one of these: what stands at the ceiling
    can only go down, so a re-draw is a little weaker than what it was drawn from, and that is a
    difference which a test has every right to find.
    """

    def change(one):
        moved = generator.random(len(one.adversarial_macs)) < share
        step = generator.choice([-100, 100], size=len(one.adversarial_macs)) * moved
        flips = generator.random(len(moved)) < 0.015
        return replace(
            one,
            adversarial_macs=np.clip(one.adversarial_macs + step, 0, CEILING),
            adversarial_correct=one.adversarial_correct ^ flips,
        )

    return with_cells(found, change)
