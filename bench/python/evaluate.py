"""`bench.evaluate`: one target against attacks, judged and counted as in a run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.contracts.attack import Attack
from bench.contracts.dataset import Dataset
from bench.contracts.defense import Defense
from bench.contracts.target import Target
from bench.contracts.threat import Threat
from bench.errors import DataError, PlanError
from bench.evaluation.outputs import freeze
from bench.evaluation.target_checks import copy_target
from bench.evaluation.target_checks import evaluate as outputs
from bench.executors.processes import check_guarded
from bench.image import to_float
from bench.plans.resolve import resolve_document
from bench.plugins import registry
from bench.python.handing import HandingOver, checked_folder, checked_number, checked_table
from bench.python.images import GivenImages
from bench.python.module import as_target
from bench.python.plan import PSNR35, plan_document
from bench.python.result import Result
from bench.python.run import ALONE, computed, undisturbed
from bench.python.target import load_target, target_table
from bench.runs.execute import RunRequest
from bench.store.provenance import deterministic
from bench.terminal import counted

NO_LABELS = "no labels were given: the clean predictions stand in for them in every accuracy"
"""The note beside the numbers of images without labels."""
IMAGES = 100
"""Images of a data set unless told otherwise."""

Named = str | Mapping[str, Any]
"""A name, or a table as in a plan."""
Images = str | Dataset | Tensor | tuple[Any, Any]
"""A data set by name or as an object, (N, C, H, W) images, or (images, labels)."""


def evaluate(
    target: Named | nn.Module,
    attack: Named | Attack | Sequence[Named | Attack] = "gradauto",
    images: Images = "digits-m:test",
    *,
    defense: Named | Defense | None = None,
    count: int | None = None,
    threat: Threat | str | Mapping[str, Any] = PSNR35,
    budget: int = 60,
    batch: int = 32,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    data_root: str | Path | None = None,
    folder: str | Path | None = None,
) -> Result:
    """Attack a target, and judge and count the saved images as a run does.

    Everything happens in this process, in one thread at a time. The numbers are those of a run of
    the same plan: of images rounded to the 8-bit grid, inside the threat, with MACs that ptflops
    counted.

    Args:
        target: the name of weights ("skipnet-20-budget@digits-m"), a table as in a plan, a
            `bench.api.Target`, or a module that has all of a target's required parts. An object is
            copied and stays as it is.
        attack: a name ("gradauto", "gradmdm:clean"), a table ({"use": …, "params": …}), a
            `bench.api.Attack`, or a list of these.
        images: a data set ("digits-m:test", or a `bench.api.Dataset`), (N, C, H, W) images (uint8,
            or floats in [0,1], which are rounded to the 8-bit grid), or a pair of these and (N,)
            labels.
        defense: put around the target: a name, a table or a `bench.api.Defense`.
        count: images of a data set, the first ones in the fixed order of a plan; 100 unless given,
            or all where there are fewer.
        threat: what a saved image may change: as in a plan, or a `bench.api.Threat`.
        budget: forward-equivalents an image: a forward pass is 1, a backward pass 2.
        batch: images evaluated together.
        seed: of all random draws.
        device: "auto", "cpu", "cuda" …
        threads: that torch computes with on a CPU.
        data_root: the folder that the data set lies in.
        folder: where to keep the run, for `gatebench show` and `bench.open_run`; by default it
            goes when the program ends.

    Returns:
        The judged numbers, the rows of all images, and pictures.

    Raises:
        PlanError: something that was asked for does not fit together, or an attack does not run
            under this threat.
        ContractBroken: target, attack or defense did what its contract forbids.
        DataError: the images are none, or the data set is missing.
        WeightsError: the weights are missing or damaged.

    Examples:
        >>> import bench
        >>> from bench.testing import ToyTarget, sample_images
        >>> result = bench.evaluate(
        ...     ToyTarget(), "identity", sample_images((3, 8, 8)), batch=6, device="cpu"
        ... )
        >>> result.recovery.value
        0.0
    """
    check_guarded()
    batch, threads = checked_number(batch, "batch"), checked_number(threads, "threads")
    count = None if count is None else checked_number(count, "count")
    root, kept = checked_folder(data_root, "data_root"), checked_folder(folder, "folder")
    over = HandingOver()
    network = None if isinstance(target, str | Mapping) else copy_target(as_target(target))
    if network is None:
        assert isinstance(target, str | Mapping)
        table = target_table(target)
    else:
        table = over.target(network, type(target).__name__)
    with ALONE, registry.handing_over(over.objects):
        dataset, size = _images(over, images, count, network, target, batch, threads)
    given: Any = attack
    if isinstance(given, str | Mapping | Attack) or not isinstance(given, Iterable):
        given = [given]
    attacks = list(given)
    document = plan_document(
        target=table,
        attacks=[
            over.attack(one) if isinstance(one, Attack) else checked_table(one, "attack")
            for one in attacks
        ],
        defense=over.defense(defense)
        if isinstance(defense, Defense)
        else checked_table(defense, "defense")
        if defense is not None
        else None,
        dataset=dataset,
        images=size,
        threat=threat,
        budget=budget,
        batch=batch,
        seed=seed,
    )
    document["run"] = {"device": device, "threads": threads}
    place = kept or Path(tempfile.mkdtemp(dir=_scratch())) / "evaluation"
    with registry.handing_over(over.objects):
        plan = resolve_document(document, "bench.evaluate")
        if defense is not None:
            plan = replace(
                plan,
                boards=tuple(
                    tuple(cell for cell in board if cell.defense is not None)
                    for board in plan.boards
                ),
            )
        request = RunRequest(
            plan=plan,
            command="bench.evaluate(…)",
            out=place.parent,
            name=place.name,
            data_root=root,
            fresh=True,
            in_process=True,
        )
        return computed(request)


def _images(
    over: HandingOver,
    images: Images,
    count: int | None,
    network: Target | None,
    target: object,
    batch: int,
    threads: int,
) -> tuple[str, int]:
    """The name of the data set in a plan, and how many images of it."""
    if isinstance(images, str):
        from bench.datasets.base import parse_name

        base, split = parse_name(images, "images")
        sizes = registry.find("dataset", base).facts().constants.get("sizes", {})
        return images, count or min(IMAGES, sizes.get(split, IMAGES))
    if isinstance(images, Dataset):
        _check_size(network, images)
        return over.dataset(images), count or min(IMAGES, len(images))
    if isinstance(images, tuple) and len(images) != 2:
        raise DataError(f"images: a pair is (images, labels), got {counted(len(images), 'thing')}")
    pixels, labels = images if isinstance(images, tuple) else (images, None)
    own = network if network is not None else load_target(target)  # type: ignore[arg-type]
    note = "" if labels is not None else NO_LABELS
    given = GivenImages(pixels, labels, classes=own.classes, note=note)
    _check_size(own, given)
    if labels is None:
        with undisturbed():
            deterministic(threads)
            given.label_array = _predictions(own, given, batch).numpy()
    return over.dataset(given), count or len(given)


def _check_size(target: Target | None, images: Dataset) -> None:
    """Refuse images of another size than a network takes."""
    if target is not None and tuple(target.image_shape) != tuple(images.image_shape):
        raise PlanError(
            f"the network takes images of {tuple(target.image_shape)}, these have "
            f"{tuple(images.image_shape)}"
        )


def _predictions(target: Target, images: GivenImages, batch: int) -> Tensor:
    """(N,) the target's own clean predictions."""
    own = copy_target(target)
    freeze(own)
    found = []
    for start in range(0, len(images), batch):
        part = range(start, min(start + batch, len(images)))
        pixels = to_float(images.images(part))
        found.append(outputs(own, pixels, torch.tensor(part)).logits.argmax(1))
    return torch.cat(found)


def _scratch() -> str:
    """A folder for runs that nobody keeps, removed when this process ends; one that is forked from
    it has a folder of its own, and leaves this one alone."""
    return _scratch_of(os.getpid())


@cache
def _scratch_of(process: int) -> str:
    folder = tempfile.mkdtemp(prefix="gatebench-")
    Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=-100)
    return folder
