"""`gatebench weights measure`: what weights of one's own do on clean images."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli.options import data_root_option, device_option
from bench.terminal import percent, say


@click.command("measure")
@click.argument("name")
@click.option(
    "--dataset", default=None, metavar="NAME:SPLIT", help="Default: the test split it belongs to."
)
@click.option("--images", type=click.IntRange(min=1), help="How many; all unless given.")
@data_root_option()
@device_option("Where to evaluate")
def measure_weights(
    name: str, dataset: str | None, images: int | None, data_root: Path | None, device: str
) -> None:
    """Measure weights of your own on clean images: accuracy, saving, and how often gates open.

    Writes it into the manifest, where 'gatebench weights list' and model cards show it, and warns
    where the numbers look as if a threshold or another parameter is not the one of the training.
    """
    from bench import weights as store
    from bench.contracts.dataset import Part
    from bench.datasets.base import check_classes, classes_digest, open_dataset, subset
    from bench.errors import PlanError
    from bench.evaluation.outputs import freeze
    from bench.plugins import registry
    from bench.plugins.parameters import as_arguments, resolve_params
    from bench.store.provenance import resolve_devices
    from bench.training.evaluate import doubts, measure
    from bench.training.results import measured_values, place
    from bench.training.results import record as noted

    where = resolve_devices(device)[0]
    entry = store.find(name)
    if entry.origin != "own":
        raise PlanError(
            f"{name} comes from {entry.origin}, whose manifest is not yours to write",
            hint=f"'gatebench weights card {name}' shows what was measured",
        )
    if dataset is None and not entry.dataset:
        raise PlanError(f"nobody said which data {name} belongs to", hint="give --dataset")
    data = open_dataset(dataset or f"{entry.dataset}:test", Path(data_root) if data_root else None)
    provider = registry.find("target", entry.target)
    given = resolve_params(provider.facts().parameters, entry.params, f"{name}: params")
    target = provider.load()(**as_arguments(given))
    state = store.read_state(entry)
    store.load_entry(target, entry)
    check_classes(name, target.classes, data)
    freeze(target)
    part = Part(data, tuple(subset(data, images or len(data))))
    measured = measure(target.to(where), part)
    pictured = place(data, len(part))
    before = store.read_record(entry) or {}
    elsewhere = (
        {"static_accuracy"} if entry.more.get("measured_on", pictured) != pictured else set()
    )
    kept = {
        key: value
        for key, value in vars(entry).items()
        if value is not None and key not in {*_WRITTEN, *elsewhere}
    }
    store.add_entry(
        entry.folder,
        entry.name,
        state,
        {
            **kept,
            "more": {**entry.more, "measured_on": pictured},
            **measured_values(measured, pictured),
        },
        {**noted([], measured), **({"curves": before["curves"]} if "curves" in before else {})},
        parts=entry.parts,
        replaces=entry,
    )
    say(f"{name} on {pictured}")
    say(
        f"accuracy {percent(measured.accuracy)}, saves {percent(measured.clean_saving)} "
        f"(spread {percent(measured.spread)}), {measured.gates_varying} of "
        f"{len(measured.rates)} gates vary"
    )
    said = entry.more.get("classes_sha256")
    if said and said != classes_digest(data.classes):
        say(
            f"warning: {name} were trained on other classes than those of {data}, "
            "or in another order",
            err=True,
            color="yellow",
        )
    for doubt in doubts(measured, target.classes):
        say(f"warning: {doubt}", err=True, color="yellow")


_WRITTEN = ("name", "folder", "origin", "file", "sha256", "bytes", "record", "record_sha256",
            "parts", "more", "opening_rates")  # fmt: skip
"""Fields of an entry that are written anew."""
