"""Running a plan: lay out the folder, find what is missing, have it computed, seal what is whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import weights
from bench.contracts.dataset import Dataset
from bench.datasets.base import check_classes, check_disjoint, open_dataset, subset, subset_digest
from bench.errors import DataError, PlanError, RunFolderError
from bench.plans.plan import COST_MODEL, Plan
from bench.store.folder import RunFolder, write_json


@dataclass(frozen=True)
class Laid:
    """A plan laid out: its cells with their keys, as stored in plan.json."""

    plan: Plan
    folder: RunFolder
    entries: Mapping[str, Mapping[str, Any]]
    order: Sequence[str]


def lay_out(
    plan: Plan,
    out: Path,
    name: str | None,
    command: str,
    data_root: str | None,
    *,
    fresh: bool = False,
    renew: bool = False,
    accept: Callable[[Mapping[str, Any]], None] = lambda document: None,
) -> Laid:
    """Check that everything the plan names is there, give every cell its key, and compare with what the run's folder holds.

    Args:
        out: the folder of all runs. name: of the run; by default that of the data set as it turned out to be, the protocol, and
            six digits of the plan's hash. command: what reproduces it. data_root: where the data set lies.
        fresh: a damaged plan.json is no obstacle, since everything is to be computed again.
        renew: another plan in the folder is replaced; cells that both have keep their results, as their keys say what they are.
        accept: hears of the resolved plan before anything is written, and may refuse it.

    Raises:
        DataError, WeightsError, PlanError: something is missing or damaged.
        RunFolderError: the folder holds another plan.
    """
    for weights_name in {cell.target.weights for cell in plan.cells if cell.target.digest}:
        weights.read_bytes(weights.find(weights_name))
    images = _opened(plan, data_root)
    dataset, subset_hash = str(images), _pinned(plan, images)
    fit_hash = _fit_pinned(plan, images, data_root)
    document = plan.document()
    entries: dict[str, Mapping[str, Any]] = {}
    for board, cells in zip(document["boards"], plan.boards, strict=True):
        board["subset"], board["dataset"], board["fit_subset"] = subset_hash, dataset, fit_hash
        for entry, cell in zip(board["cells"], cells, strict=True):
            entry["key"] = cell.key(f"{dataset} {subset_hash}", COST_MODEL, fit_hash)
            entries[entry["key"]] = {**entry, "protocol": board["protocol"]}
    run = RunFolder(out / (name or plan.default_name(dataset)))
    document |= {"name": run.name, "digest": plan.digest, "command": command}
    accept(document)
    before = _before(run, fresh)
    if (
        before is not None
        and not renew
        and (before["digest"] != document["digest"] or before["boards"][0]["subset"] != subset_hash)
    ):
        raise RunFolderError(
            f"{run.path} holds another plan: {_difference(before, document)}",
            hint="choose another name with --name, or go back to the plan it was made with",
        )
    run.create()
    write_json(run.path / "plan.json", document)
    return Laid(plan, run, entries, list(entries))


def _before(run: RunFolder, fresh: bool) -> Mapping[str, Any] | None:
    """The plan that the folder was made with; None if there is none, or a damaged one that is to be replaced."""
    if not (run.path / "plan.json").is_file():
        return None
    try:
        return run.plan()
    except RunFolderError as error:
        if fresh:
            return None
        raise RunFolderError(
            error.message, hint=error.hint or "--fresh computes everything again"
        ) from error


def _opened(plan: Plan, data_root: str | None) -> Dataset:
    """The data set of the plan; all boards share it.

    Raises:
        DataError: it is not there, damaged or empty.
        PlanError: no image can change under a threat, or a network tells another number of classes apart.
    """
    dataset = open_dataset(plan.cells[0].protocol.dataset, Path(data_root) if data_root else None)
    if not len(dataset):
        raise DataError(f"{dataset} has no images")
    values = math.prod(dataset.image_shape)
    for cells in plan.boards:
        threat = cells[0].protocol.threat
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


def _pinned(plan: Plan, dataset: Dataset) -> str:
    """The digest of the images of the plan; all boards share them."""
    return subset_digest(dataset, subset(dataset, plan.cells[0].protocol.images))


def _fit_pinned(plan: Plan, scored: Dataset, data_root: str | None) -> str:
    """The digest of the images that attacks and defences are fitted on; "" where none fits.

    Raises:
        PlanError: there are too few, or some of them are scored too, whatever they are called.
    """
    if not any(cell.fits for cell in plan.cells):
        return ""
    protocol = plan.cells[0].protocol
    dataset = open_dataset(
        f"{protocol.dataset.partition(':')[0]}:{protocol.fit.split}",
        Path(data_root) if data_root else None,
    )
    if len(dataset) < protocol.fit.images:
        raise PlanError(
            f"protocol.fit.images: {protocol.fit.images} asked for, {dataset} has {len(dataset)}"
        )
    fitted = subset(dataset, protocol.fit.images)
    check_disjoint(
        dataset, fitted, scored, subset(scored, protocol.images), f"protocol.fit: {dataset}"
    )
    return subset_digest(dataset, fitted)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first place in which two plans differ, in words."""
    then, new = _flat(before["boards"]), _flat(now["boards"])
    for path in sorted(set(then) | set(new)):
        if then.get(path) != new.get(path) and not path.endswith("key"):
            return f"{path} was {then.get(path, 'absent')!r}, is {new.get(path, 'absent')!r}"
    return "other cells"


def _flat(document: Any, path: str = "") -> dict[str, Any]:
    if isinstance(document, Mapping):
        return {
            key: value
            for name, part in document.items()
            for key, value in _flat(part, f"{path}.{name}" if path else name).items()
        }
    if isinstance(document, list):
        return {
            key: value
            for i, part in enumerate(document)
            for key, value in _flat(part, f"{path}[{i}]").items()
        }
    return {path: document}
