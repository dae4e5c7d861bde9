"""The [protocol] and [run] tables of a plan."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.contracts.cell import Fit, Protocol
from bench.contracts.threat import Threat, parse_threat
from bench.datasets.base import parse_name
from bench.errors import GatebenchError, PlanError, did_you_mean
from bench.plans.devices import default_batch, precision_problem
from bench.plans.plan import RunOptions
from bench.plans.problems import Problems
from bench.plans.schema import ABSENT, ProtocolTable, RunTable
from bench.plugins import registry
from bench.plugins.parameters import seconds

LARGEST = (3, 4096, 4096)
"""Stands for an image whose shape is not known before the data is read; a threat too small for this
one is too small for any."""
MOST = 10**9
"""The largest number of images, of a batch, a budget or a shard."""
MOST_WORKERS = 4096
MOST_BOARDS = 1000


def resolve_protocols(entry: ProtocolTable, device: str, problems: Problems) -> list[Protocol]:
    """The protocols of a plan, one a board.

    Args:
        entry: the [protocol] table.
        device: that the plan runs on.
        problems: gets what is wrong.
    """
    shape = _image_shape(entry, problems)
    _check_counts(entry, problems)
    budgets = entry.budget if isinstance(entry.budget, list) else [entry.budget]
    for budget in budgets:
        if not 1 <= budget <= MOST:
            _out_of_range("protocol.budget", budget, problems, unit="forward-equivalent")
    threats = _threats(entry, shape, problems)
    for name, values in (("budget", budgets), ("seeds", entry.seeds), ("threat", entry.threat)):
        if values == []:
            problems.add(f"protocol.{name}", "an empty list makes no board")
    lists: dict[str, list[Any]] = {"budget": budgets, "seeds": entry.seeds, "threat": threats}
    for name, chosen in lists.items():
        for value, count in Counter(map(str, chosen)).items():  # boards go by names
            if count > 1:
                said = f"{value} is there twice; the same board need not be made again"
                problems.add(f"protocol.{name}", said)
    boards = len(threats) * len(budgets) * len(entry.seeds)
    if boards > MOST_BOARDS:
        said = f"threats, budgets and seeds make {boards:,} boards; at most {MOST_BOARDS:,}"
        problems.add("protocol", said)
        return []
    audit = min(entry.audit, max(entry.images, 1))
    fit = Fit(entry.fit.split, entry.fit.images, entry.fit.budget)
    if problem := precision_problem(entry.precision, device):
        problems.add("protocol.precision", problem)
    batch = default_batch(device, entry.images) if entry.batch == "auto" else entry.batch
    return [
        Protocol(
            entry.dataset, entry.images, batch, threat, budget, seed, audit, fit, entry.precision
        )
        for threat, budget, seed in itertools.product(threats, budgets, entry.seeds)
    ]


def resolve_options(entry: RunTable, problems: Problems) -> RunOptions:
    """How to run."""
    deadline = 0.0
    try:
        deadline = seconds(entry.deadline, "run.deadline")
    except PlanError as error:
        problems.add("run.deadline", error.message)
    for name, value, most in (
        ("shard", entry.shard, MOST),
        ("threads", entry.threads, MOST_WORKERS),
    ):
        if not 1 <= value <= most:
            _out_of_range(f"run.{name}", value, problems, most=most)
    if isinstance(entry.workers, int) and not 1 <= entry.workers <= MOST_WORKERS:
        said = "at most 4096" if entry.workers > 0 else 'at least 1, or "auto"'
        problems.add("run.workers", f"{said}, got {entry.workers}")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", entry.device):
        near = did_you_mean(entry.device, ["auto", "cpu", "cuda", "mps"])
        problems.add("run.device", f"unknown device {entry.device!r}{near}")
    known = registry.names("executor")
    if entry.executor not in known:
        near = did_you_mean(entry.executor, known)
        problems.add("run.executor", f"unknown executor {entry.executor!r}{near}")
    return RunOptions(
        entry.device, entry.shard, deadline, entry.workers, entry.threads, entry.executor
    )


def _check_counts(entry: ProtocolTable, problems: Problems) -> None:
    for name in ("images", "batch"):
        value = getattr(entry, name)
        if value != "auto" and not 1 <= value <= MOST:
            _out_of_range(f"protocol.{name}", value, problems)
    for seed in entry.seeds:
        if seed < 0:
            problems.add("protocol.seeds", f"at least 0, got {seed}")
    if entry.audit < 1:
        said = "at least 1: every cell has images whose execution is counted"
        problems.add("protocol.audit", said)
    fit = entry.fit
    if min(fit.images, fit.budget) < 1 or max(fit.images, fit.budget) > MOST:
        problems.add(
            "protocol.fit",
            f"at least 1 image and 1 forward-equivalent, at most {MOST:,}, got {fit.images} and "
            f"{fit.budget}",
        )


def _out_of_range(
    path: str, value: int, problems: Problems, *, most: int = MOST, unit: str = ""
) -> None:
    bound = f"at most {most:,}" if value > 1 else f"at least 1 {unit}".rstrip()
    problems.add(path, f"{bound}, got {value}")


def _threats(entry: ProtocolTable, shape: Sequence[int], problems: Problems) -> list[Threat]:
    values = entry.threat if isinstance(entry.threat, list) else [entry.threat]
    found = []
    for i, value in enumerate(values):
        where = f"protocol.threat[{i}]" if isinstance(entry.threat, list) else "protocol.threat"
        try:
            threat = parse_threat(value, where)
        except PlanError as error:
            problems.add("protocol.threat", error.message)
            continue
        if not threat.fits(shape):
            problems.add("protocol.threat", f"{where}: {threat} is larger than the image")
        elif not threat.admits_change(math.prod(shape)):
            size = "x".join(str(side) for side in shape[1:])
            problems.add(
                "protocol.threat",
                f"{where}: {threat} admits no change of an 8-bit image of {size} pixels; every "
                "attack would do nothing",
            )
        found.append(threat)
    return found


def _image_shape(entry: ProtocolTable, problems: Problems) -> Sequence[int]:
    """(C, H, W) as far as it is known before anything is read; else larger than any."""
    if entry.dataset == ABSENT:
        return LARGEST
    try:
        name, split = parse_name(entry.dataset, "protocol.dataset")
        facts = registry.find("dataset", name, where="protocol.dataset").facts()
    except GatebenchError as error:
        problems.add("protocol.dataset", error.message)
        return LARGEST
    sizes = facts.constants.get("sizes", {})
    if sizes and split not in sizes:
        near = did_you_mean(split, sizes)
        problems.add("protocol.dataset", f"{name} has no split {split!r}{near}")
    elif sizes and entry.images > sizes[split]:
        said = f"{entry.images} asked for, but {entry.dataset} has {sizes[split]}"
        problems.add("protocol.images", said)
    shape: Sequence[int] = facts.constants.get("image_shape", LARGEST)
    return shape
