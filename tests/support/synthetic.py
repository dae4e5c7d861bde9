"""Boards made up for the tests of the reports: every status, several kinds of units, numbers that
hang together.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256

import numpy as np
from PIL import Image

from bench.results.records import Board, BoardCell, TargetStanding
from bench.results.rows import ImageRow, UnitRow
from bench.results.stats import UNDEFINED, Estimate

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = 32


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


@cache
def saved(seed: int, shift: int = 0) -> bytes:
    """`picture` as a file."""
    return png(picture(seed, shift))


@cache
def picture(seed: int, shift: int = 0) -> np.ndarray:
    """A smooth colour field with a bright bar, and noise of `shift` levels on it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    phases = random.uniform(0, 6, size=3)
    base = np.stack([110 + 70 * np.sin(3 * x + 4 * y + phase) for phase in phases], axis=-1)
    base[8:24, 12 + seed % 6 : 17 + seed % 6] = 220
    noise = (
        np.random.default_rng(seed + 999).integers(-shift, shift + 1, size=base.shape)
        if shift
        else 0
    )
    found = np.clip(base.round() + noise, 0, 255).astype(np.uint8)
    found.setflags(write=False)
    return found


def block_units(count: int = 18) -> tuple[UnitRow, ...]:
    return tuple(
        UnitRow(
            f"group{index // 6}.block{index % 6}",
            "block",
            f"group{index // 6}.block{index % 6}",
            (),
            1_000_000 + 50_000 * index,
            0.5,
        )
        for index in range(count)
    )


def map_units() -> tuple[UnitRow, ...]:
    positions = tuple(
        UnitRow(f"block{owner}.position{i}", "position", f"block{owner}", (6, 8), 9_000, 0.5)
        for owner in range(3)
        for i in range(48)
    )
    channels = tuple(
        UnitRow(f"conv0.channel{i}", "channel", "conv0", (40,), 5_000, 0.0) for i in range(40)
    )
    return (*positions, *channels, UnitRow("exit0", "exit", "exit0", (), 700_000, 0.5))


def image_rows(
    units: Sequence[UnitRow], n: int, *, strength: float, shift: int, seed: int = 0
) -> tuple[ImageRow, ...]:
    random = np.random.default_rng(seed)
    costs = np.array([unit.cost for unit in units])
    base = 4_000_000
    easiness = np.linspace(0.25, 0.9, len(units))
    rows = []
    for index in range(n):
        before = np.random.default_rng(index).random(len(units)) < easiness
        opened = random.random(len(units)) < strength
        after = before | opened if shift else before
        clean_macs, macs = (int(base + costs[chosen].sum()) for chosen in (before, after))
        clean, adversarial = picture(index), picture(index, shift)
        squared = int(((adversarial.astype(int) - clean.astype(int)) ** 2).sum())
        values = clean.size
        steps = np.linspace(3, 150, 12).astype(int)
        trace = tuple(
            (
                int(at),
                int(clean_macs + (macs - clean_macs) * (1 - math.exp(-at / 40))),
                float(squared),
            )
            for at in steps
        )
        rows.append(
            ImageRow(
                id=f"digits-m/test/{index:05d}",
                label=index % 10,
                clean_prediction=index % 10,
                adversarial_prediction=(index + (index % 7 == 0 and shift > 0)) % 10,
                clean_macs=clean_macs,
                adversarial_macs=macs,
                float_macs=macs + 40_000 * (index % 3 == 0),
                clean_decisions=tuple(map(bool, before)),
                adversarial_decisions=tuple(map(bool, after)),
                linf=int(np.abs(adversarial.astype(int) - clean.astype(int)).max()),
                squared=squared,
                l2=math.sqrt(squared) / 255,
                psnr=120.0 if squared == 0 else 10 * math.log10(255**2 * values / squared),
                ssim=1.0 if squared == 0 else 0.93,
                evaluations=150,
                forwards=50,
                backwards=50,
                near_threshold=index % 11 == 3,
                overshoot=index == 4,
                trace=trace if shift else (),
                image=saved(index),
                adversarial=saved(index, shift),
            )
        )
    return tuple(rows)


def around(value: float, width: float = 0.02) -> Estimate:
    return Estimate(value, value - width, value + width)


def ok_cell(
    target: str,
    defense: str,
    attack: str,
    units: tuple[UnitRow, ...],
    *,
    n: int,
    strength: float,
    shift: int,
    rank: int | None,
    control: bool,
) -> BoardCell:
    rows = image_rows(units, n, strength=strength, shift=shift, seed=len(attack) + len(target))
    floor, ceiling = 4_000_000, 4_000_000 + sum(unit.cost for unit in units)
    clean = sum(row.clean_macs for row in rows) / n
    adversarial = sum(row.adversarial_macs for row in rows) / n
    recovery = (adversarial - clean) / max(ceiling - clean, 1)
    pooled = (
        10 * math.log10(255**2 * SIDE * SIDE * 3 * n / total)
        if (total := sum(row.squared for row in rows))
        else 120.0
    )
    return BoardCell(
        key=sha256(f"{target}/{defense}/{attack}".encode()).hexdigest(),
        target=target,
        defense=defense,
        attack=attack,
        inputs={
            "attack": {"use": attack, "params": {"steps": 50, "K": 0.1}},
            "protocol": {"seed": 0},
            "target": {"use": target},
        },
        status="ok",
        control=control,
        flags=("left-threat",) if attack == "ilfo" else (),
        n=n,
        classes=CLASSES,
        floor=floor,
        ceiling=ceiling,
        reference=ceiling,
        clean_macs=clean,
        adversarial_macs=adversarial,
        float_macs=adversarial + 10_000,
        recovery=around(recovery),
        float_recovery=around(recovery + 0.01),
        mean_recovery=around(recovery - 0.01),
        block_recovery=recovery,
        clean_saving=around(1 - clean / ceiling, 0.01),
        surviving_saving=around(1 - adversarial / ceiling, 0.01),
        clean_efficacy=around(1 - (clean - floor) / (ceiling - floor), 0.01)
        if floor < ceiling
        else UNDEFINED,
        adversarial_efficacy=around(1 - (adversarial - floor) / (ceiling - floor), 0.01)
        if floor < ceiling
        else UNDEFINED,
        clean_accuracy=around(0.95),
        adversarial_accuracy=around(0.95 - strength / 4),
        agreement=around(1 - strength / 4),
        psnr=sum(row.psnr for row in rows) / n,
        pooled_psnr=pooled,
        ssim=sum(row.ssim for row in rows) / n,
        l2=sum(row.l2 for row in rows) / n,
        linf=max(row.linf for row in rows),
        evaluations=150.0,
        attack_rank=rank,
        units=units,
        environment={
            "torch": "2.14.1",
            "device": "cpu",
            "threads": 1,
            "versions": {"gatebench": "0.1.0"},
        },
        command=f"gatebench run bench.toml --only '{target}/{attack}'",
        rows=lambda: rows,
    )


ATTACKS = (
    ("gradauto", 0.8, 6, 1),
    ("gradauto:RM", 0.75, 6, 1),
    ("gradauto:RD", 0.4, 5, 3),
    ("ilfo", 0.6, 7, 2),
)
CONTROLS = (("identity", 0.0, 0), ("noise", 0.02, 6), ("contrast", 0.15, 9))


@cache
def full_board(*, n: int = 120, ranked: bool = True) -> Board:
    """Two skipping targets, one of them defended too, and one with maps of positions and channels;
    every status.
    """
    cells: list[BoardCell] = []
    for target, defense, units, scale in (
        ("skipnet-20-budget", "", block_units(), 1.0),
        ("skipnet-20-budget", "jpeg", block_units(), 0.5),
        ("sact-like", "", map_units(), 0.8),
    ):
        for attack, strength, shift, rank in ATTACKS:
            cells.append(
                ok_cell(
                    target,
                    defense,
                    attack,
                    units,
                    n=n,
                    strength=strength * scale,
                    shift=shift,
                    rank=rank if ranked else None,
                    control=False,
                )
            )
        for attack, strength, shift in CONTROLS:
            cells.append(
                ok_cell(
                    target,
                    defense,
                    attack,
                    units,
                    n=n,
                    strength=strength * scale,
                    shift=shift,
                    rank=None,
                    control=True,
                )
            )
    for status, reason in (
        ("skipped", "reproduces a published script and runs under threat none only"),
        ("invalid", "macs(decisions) says 40 813 184, ptflops counted 40 813 185 in execute"),
        ("failed", "ValueError: no such gate\n  in perturb, line 12"),
        ("timeout", "a shard ran past 10 minutes"),
        ("oom", "out of memory at batch 32; 16 is worth trying"),
        ("missing", ""),
    ):
        cells.append(
            BoardCell(
                key=sha256(status.encode()).hexdigest(),
                target="skipnet-20-budget",
                defense="",
                attack=f"attack-{status}",
                inputs={"attack": {"use": status}},
                status=status,
                reason=reason,
                command="gatebench run bench.toml",
            )
        )
    static = ok_cell(
        "resnet-20", "", "gradauto", (), n=n, strength=0.0, shift=4, rank=None, control=False
    )
    cells.append(
        replace(
            static,
            recovery=Estimate(None),
            float_recovery=Estimate(None),
            mean_recovery=Estimate(None),
            block_recovery=None,
        )
    )
    return Board(
        name="digits-m-psnr35-1a2b3c",
        protocol={
            "dataset": "digits-m:test",
            "images": n,
            "batch": 32,
            "threat": {"norm": "psnr", "floor": "35"} if ranked else "none",
            "budget": 150,
            "seed": 0,
        },
        plan={"schema": 1, "target": [{"use": "skipnet"}]},
        command="gatebench run quickstart",
        dataset="digits-m:test",
        dataset_note="for trying, not for claims",
        credits=(
            "China photograph by its maker, CC BY, https://example.org/china.jpg",
            "plain line",
        ),
        preliminary=n < 100,
        ranked=ranked,
        intervals="95 % paired bootstrap over images, 10 000 draws, Holm over the board, n = 120.",
        version="0.1.0",
        cells=tuple(cells),
        standings=standings(cells, ranked=ranked),
    )


def standings(cells: Sequence[BoardCell], *, ranked: bool) -> tuple[TargetStanding, ...]:
    best: dict[tuple[str, str], BoardCell] = {}
    for cell in cells:
        if cell.status == "ok" and not cell.control:
            known = best.get((cell.target, cell.defense))
            if known is None or (cell.adversarial_macs or 0) > (known.adversarial_macs or 0):
                best[(cell.target, cell.defense)] = cell
    order = sorted(best.values(), key=lambda cell: -(cell.surviving_saving.value or 0))
    return tuple(
        TargetStanding(
            target=cell.target,
            defense=cell.defense,
            rank=place if ranked else None,
            strongest=cell.attack,
            surviving_saving=cell.surviving_saving,
            clean_saving=cell.clean_saving,
            clean_accuracy=cell.clean_accuracy,
            adversarial_accuracy=cell.adversarial_accuracy,
            recovery=cell.recovery,
            psnr=cell.psnr,
        )
        for place, cell in enumerate(order, 1)
    )


def empty_board() -> Board:
    return replace(full_board(n=2), cells=(), standings=(), credits=(), dataset_note="")
