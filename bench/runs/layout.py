"""Laying a plan out: its data, weights, cells with their keys, and the folder they go to."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import weights
from bench.contracts.cell import Cell
from bench.contracts.dataset import Dataset
from bench.datasets.base import (
    check_classes,
    check_disjoint,
    open_dataset,
    subset,
    subset_digest,
    subset_digests,
)
from bench.datasets.promises import check_declared, check_pixels
from bench.errors import DataError, PlanError, RunFolderError
from bench.plans.plan import Plan, RunOptions
from bench.plans.stored import StoredPlan, read_plan
from bench.store.documents import write_json
from bench.store.folder import PLAN, RunFolder


@dataclass(frozen=True)
class Laid:
    """A plan laid out.

    Attributes:
        plan: with its keys.
        options: how to run it.
        folder: where it goes.
        ids: of its images, in order; all boards share them.
        chosen: keys of the cells to compute where it is not all of them.
        pictures: digests of its images (`bench.datasets.base.image_digest`), in order.
    """

    plan: StoredPlan
    options: RunOptions
    folder: RunFolder
    ids: tuple[str, ...]
    chosen: frozenset[str] | None = None
    pictures: tuple[str, ...] = ()

    @property
    def cells(self) -> Mapping[str, Cell]:
        """Key -> cell, in the order of the plan."""
        return self.plan.cells

    def check_folder(self, *, fresh: bool = False, renew: bool = False) -> None:
        """Refuse a folder that holds another plan.

        Args:
            fresh: a damaged plan.json is no obstacle, since everything is to be computed again.
            renew: another plan is no obstacle either; cells that both have keep their results, as
                their keys say what they are.

        Raises:
            RunFolderError: it holds another plan, a damaged one, or no run at all.
        """
        self.folder.check_no_others()
        before = _before(self.folder, fresh)
        if before is None or renew:
            return
        before, here = before.planned(), self.plan
        same = [board.subset for board in before.boards] == [board.subset for board in here.boards]
        if before.digest != here.digest or not same:
            raise RunFolderError(
                f"{self.folder.path} holds another plan: {_difference(before, here)}",
                hint="choose another name with --name, or go back to the plan it was made with",
            )

    def write(self) -> None:
        """Write plan.json; only for who holds the run's lock.

        Rows that were handed in to the board stay on it. Where a part of a run is computed, it is
        there already.

        Raises:
            RunFolderError: one of them is called like a row of this plan.
        """
        if self.chosen is not None:
            return
        plan = self.plan
        with contextlib.suppress(RunFolderError):
            plan = plan.with_handed_in(read_plan(self.folder))
        for board in plan.boards:
            try:
                board.check_told_apart()
            except ValueError as error:
                raise RunFolderError(
                    f"{self.folder.path} has rows that were handed in, and this plan another row "
                    f"of such a name: {error}",
                    hint="give it another label, or choose another name with --name",
                ) from error
        write_json(self.folder.path / PLAN, plan.document())


def lay_out(
    plan: Plan,
    out: Path,
    name: str | None,
    command: str,
    data_root: str | None,
    *,
    fresh: bool = False,
    renew: bool = False,
    accept: Callable[[StoredPlan], None] = lambda plan: None,
    suffix: str = "",
    whole: Plan | None = None,
) -> Laid:
    """Check that all that the plan names is there, give every cell its key, look at its folder.

    Nothing is written: that is for `bench.runs.run.Run`, which holds the folder's lock.

    Args:
        plan: what is to be run.
        out: the folder of all runs.
        name: of the run; by default that of the data set as it turned out to be, the protocol, and
            six digits of the plan's hash.
        command: what reproduces it.
        data_root: where the data set lies.
        fresh: see `Laid.check_folder`.
        renew: see `Laid.check_folder`.
        accept: hears of the resolved plan, and may refuse it.
        suffix: what the name ends with, whether given or not.
        whole: the plan that `plan` is a part of. Where there is a run of it already, that one goes
            on, and only the cells of `plan` are computed.

    Raises:
        DataError: the data set is missing or damaged.
        WeightsError: weights are.
        PlanError: no image can change under a threat, a network tells another number of classes
            apart, or images are fitted on that are scored too.
        RunFolderError: the folder holds another plan.
    """
    for weights_name in {cell.target.weights for cell in plan.cells if cell.target.digest}:
        weights.check_files(weights.find(weights_name))
    dataset = _opened(plan, data_root)
    places = subset(dataset, plan.cells[0].protocol.images)
    run = RunFolder(out / f"{name or plan.default_name(str(dataset))}{suffix}")
    part = {(cell.protocol.terms, cell.label) for cell in plan.cells}
    is_part = whole is not None and _holds(
        there := RunFolder(out / f"{name or whole.default_name(str(dataset))}{suffix}"), whole
    )
    if whole is not None and is_part:
        plan, run = whole, there
    total, pictures = subset_digests(dataset, places)
    stored = StoredPlan.of(
        plan,
        name=run.name,
        command=command,
        dataset=str(dataset),
        subset=total,
        fit_subset=_fit_pinned(plan, dataset, data_root),
    )
    accept(stored)
    ids = tuple(dataset.ids[place] for place in places)
    chosen = (
        frozenset(
            key for key, cell in stored.cells.items() if (cell.protocol.terms, cell.label) in part
        )
        if is_part
        else None
    )
    laid = Laid(stored, plan.options, run, ids, chosen, pictures)
    laid.check_folder(fresh=fresh, renew=renew)
    return laid


def _holds(run: RunFolder, plan: Plan) -> bool:
    """Whether a folder holds a run of a plan."""
    before = _before(run, fresh=True)
    return before is not None and before.planned().digest == plan.digest


def _before(run: RunFolder, fresh: bool) -> StoredPlan | None:
    """The plan that the folder was made with; None for none, or a damaged one to be replaced."""
    if not run.is_planned:
        return None
    try:
        return read_plan(run)
    except RunFolderError as error:
        if fresh:
            return None
        raise RunFolderError(
            error.message, hint=error.hint or "--fresh computes everything again"
        ) from error


def _opened(plan: Plan, data_root: str | None) -> Dataset:
    """The data set of the plan; all boards share it."""
    dataset = open_dataset(plan.cells[0].protocol.dataset, Path(data_root) if data_root else None)
    if not len(dataset):
        raise DataError(f"{dataset} has no images")
    check_declared(dataset)
    check_pixels(dataset)
    values = math.prod(dataset.image_shape)
    for cells in plan.boards:
        threat = cells[0].protocol.threat
        if not threat.fits(dataset.image_shape):
            size = "x".join(str(side) for side in dataset.image_shape[1:])
            raise PlanError(f"protocol.threat: {threat} does not fit into images of {size} pixels")
        if not threat.admits_change(values):
            raise PlanError(
                f"protocol.threat: {threat} admits no change of an 8-bit image of {values} values; "
                "every attack would do nothing"
            )
    for target in {cell.target.label: cell.target for cell in plan.cells}.values():
        classes = target.params.get("num_classes")
        if isinstance(classes, int) and not isinstance(classes, bool):
            check_classes(target.label, classes, dataset)
    return dataset


def _fit_pinned(plan: Plan, scored: Dataset, data_root: str | None) -> str:
    """The digest of the images that attacks and defenses are fitted on; "" where none fits.

    Raises:
        PlanError: there are too few, or some of them are scored too, whatever they are called.
    """
    if not any(cell.fits for cell in plan.cells):
        return ""
    protocol = plan.cells[0].protocol
    dataset = open_dataset(protocol.fit_dataset, Path(data_root) if data_root else None)
    check_declared(dataset)
    check_pixels(dataset)
    if len(dataset) < protocol.fit.images:
        raise PlanError(
            f"protocol.fit.images: {protocol.fit.images} asked for, {dataset} has {len(dataset)}"
        )
    fitted = subset(dataset, protocol.fit.images)
    chosen = subset(scored, protocol.images)
    check_disjoint(dataset, fitted, scored, chosen, f"protocol.fit: {dataset}")
    return subset_digest(dataset, fitted)


def _difference(before: StoredPlan, now: StoredPlan) -> str:
    """The first place in which two plans differ, in words."""
    then, new = (_leaves(plan.document()["boards"]) for plan in (before, now))
    for path in sorted(set(then) | set(new)):
        if then.get(path) != new.get(path) and not path.endswith("key"):
            return f"{path} was {then.get(path, 'absent')!r}, is {new.get(path, 'absent')!r}"
    return "other cells"


def _leaves(document: Any, path: str = "") -> dict[str, Any]:
    """Path -> value of everything in a document that is no table and no list."""
    if isinstance(document, Mapping):
        parts = {f"{path}.{name}" if path else name: part for name, part in document.items()}
    elif isinstance(document, list | tuple):
        parts = {f"{path}[{i}]": part for i, part in enumerate(document)}
    else:
        return {path: document}
    return {
        key: value for place, part in parts.items() for key, value in _leaves(part, place).items()
    }
