"""`gatebench train`: train networks by a recipe, one stage after the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.terminal import console, message, say

if TYPE_CHECKING:
    from torch import Tensor

    from bench.contracts.dataset import Dataset
    from bench.contracts.recipe import Recipe
    from bench.training.settings import Epoch, Training, Watch
    from bench.weights.entry import Entry


@click.command()
@click.argument("recipe")
@click.option(
    "--stage",
    metavar="NAME",
    help="Which link of the recipe's chain to train; without it, they are listed.",
)
@click.option(
    "--dataset",
    default="digits-m",
    show_default=True,
    metavar="NAME",
    help="Trained on NAME:train, measured on NAME:test (or :val).",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Of the initialisation, the order of images, crops and sampled gates.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Short for --set epochs=N.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of the stage, such as depth=38; repeat for more.",
)
@click.option(
    "--from",
    "start",
    metavar="WEIGHTS",
    help="The weights to start from, instead of the stage's own predecessor's.",
)
@click.option(
    "--as",
    "name",
    metavar="NAME",
    help="The name of the new weights, instead of NETWORK-STAGE@DATASET.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for weights and manifest, instead of GATEBENCH_HOME/weights.",
)
@click.option(
    "--data-root",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder that the data set lies in.",
)
@click.option(
    "--device", default="auto", show_default=True, metavar="NAME", help="cuda, cpu, mps, or auto."
)
@click.option(
    "--precision",
    type=click.Choice(["bf16", "fp32"]),
    default="bf16",
    show_default=True,
    help="bf16 trains under autocast; what is measured is always float32.",
)
@click.option(
    "--fresh",
    is_flag=True,
    help="Start anew, even where a checkpoint or the finished weights are there.",
)
def train(
    recipe: str,
    stage: str | None,
    dataset: str,
    seed: int,
    epochs: int | None,
    settings: tuple[str, ...],
    start: str | None,
    name: str | None,
    out: Path | None,
    data_root: Path | None,
    device: str,
    precision: str,
    fresh: bool,
) -> None:
    """Train networks by a RECIPE ('gatebench list recipes' shows them).

    A recipe is a chain of stages. For SkipNet:

    \b
      gatebench train skipnet                      the stages and their settings
      gatebench train skipnet --stage static       the plain ResNet that the others are held against
      gatebench train skipnet --stage sp           gates learnt from cross-entropy alone
      gatebench train skipnet --stage budget       gates under a budget of open blocks
      gatebench train skipnet --stage hrl          policy gradient, starting from 'budget'
      gatebench train skipnet --stage hrl --from skipnet-20-sp@digits-m --set alpha=0.4

    A checkpoint is written after every epoch. Ctrl-C, a crash or a kill lose at most the epoch in progress: the same
    command goes on, and ends in the same weights bit for bit (on the same machine, thread count and versions).

    The finished weights are a safetensors file and a table in manifest.toml with what was measured on the test images:
    accuracy, that of the static twin, MACs saved, their spread, and how often each gate opens. A plan uses them by name:

    \b
      [[target]]
      use = "skipnet"
      weights = "skipnet-20-budget@digits-m"
    """
    from bench.errors import PlanError, UnknownName
    from bench.files.home import weights_home
    from bench.plugins import registry

    kind: Recipe = registry.load("recipe", recipe)
    if stage is None:
        say(_describe(recipe, kind))
        return
    if stage not in kind.stages:
        raise UnknownName("stage", stage, kind.stages, where=f"recipe {recipe}")
    if epochs is not None and any(text.partition("=")[0].strip() == "epochs" for text in settings):
        raise PlanError("--epochs and --set epochs=… say the same thing; leave one out")
    if epochs is not None:
        settings = (*settings, f"epochs={epochs}")
    _train(
        kind,
        recipe,
        stage,
        settings,
        dataset,
        seed,
        start,
        name,
        out or weights_home(),
        data_root,
        device,
        precision,
        fresh,
    )


def _train(
    kind: Recipe,
    recipe: str,
    stage_name: str,
    settings: tuple[str, ...],
    dataset: str,
    seed: int,
    start: str | None,
    name: str | None,
    out: Path,
    data_root: Path | None,
    device: str,
    precision: Any,
    fresh: bool,
) -> None:
    from bench import weights
    from bench.datasets.base import open_dataset
    from bench.errors import DataError
    from bench.training import loop
    from bench.training.evaluate import measure
    from bench.training.settings import Training

    stage_class = kind.stages[stage_name]
    stage = stage_class(**_settings(stage_class, settings))
    where = loop.pick_device(device)
    data = open_dataset(f"{dataset}:train", data_root)
    splits = [split for split in ("test", "val") if split in type(data).splits]
    if not splits:
        raise DataError(f"{dataset} has no split 'test' or 'val' to measure the trained network on")
    test = open_dataset(f"{dataset}:{splits[0]}", data_root)
    name = name or f"{stage.weights_name(stage_name)}@{data.name}"
    before, state = _start(stage, start, data.name, out, recipe)
    plan = Training(
        recipe, stage_name, stage, data.name, seed, precision, before.sha256 if before else ""
    )
    checkpoint = out / "checkpoints" / f"{name}.pt"
    if fresh:
        checkpoint.unlink(missing_ok=True)
    elif _finished(name, plan, out):
        say(f"{name} is already trained with these settings, in {out}; --fresh trains it again")
        return
    say(
        f"{recipe}/{stage_name} on {data} ({len(data)} images, {stage.epochs} epochs), seed {seed}, {where}, {precision} -> {name}"
    )
    try:
        with _display(stage.epochs) as watch:
            trained = loop.train(plan, data, checkpoint, start=state, device=where, watch=watch)
    except KeyboardInterrupt:
        say("stopped; the same command goes on after the last whole epoch", err=True)
        raise
    measured = measure(trained.target, test)
    values = _table(plan, stage, measured, data, test, trained.seconds, before, out)
    entry = weights.add_entry(
        out, name, trained.target.state_dict(), values, _record(trained.history, measured)
    )
    checkpoint.unlink(missing_ok=True)
    if checkpoint.parent.is_dir() and not any(checkpoint.parent.iterdir()):
        checkpoint.parent.rmdir()
    say(_summary(entry))


def _settings(stage_class: type, settings: tuple[str, ...]) -> dict[str, Any]:
    """The settings given on the command line, of the types that the stage declares.

    Raises:
        PlanError: listing every unknown setting and wrong type.
    """
    import tomllib

    from bench.errors import PlanError
    from bench.plugins.declarations import read_class
    from bench.plugins.parameters import resolve_params

    given: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise PlanError(f"--set {text}: expected KEY=VALUE")
        try:
            given[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            given[key.strip()] = value.strip()
    facts = read_class(stage_class.__module__, stage_class.__name__, lambda: stage_class)
    return resolve_params(facts.parameters, given, "--set")


def _start(
    stage: Any, start: str | None, dataset: str, out: Path, recipe: str
) -> tuple[Entry | None, dict[str, Tensor] | None]:
    """The weights that a stage starts from, if any.

    Raises:
        WeightsError: they are not there, or damaged; says which command makes them.
    """
    from bench import weights
    from bench.errors import UnknownName, WeightsError

    if start is None and not stage.start:
        return None, None
    wanted = start or f"{stage.weights_name(stage.start)}@{dataset}"
    try:
        entry = weights.read_manifest(out).get(wanted) or weights.find(wanted)
    except UnknownName as error:
        if start is not None:
            raise
        raise WeightsError(
            f"{wanted}, which this stage starts from, is not there",
            hint=f"first 'gatebench train {recipe} --stage {stage.start} --dataset {dataset}', or name others with --from",
        ) from error
    return entry, weights.read_state(entry)


def _finished(name: str, plan: Training, out: Path) -> bool:
    """Whether weights of this name, made by this very training, are already there and whole."""
    from bench import weights
    from bench.errors import WeightsError

    entry = weights.read_manifest(out).get(name)
    if entry is None or entry.more.get("training") != plan.document():
        return False
    try:
        weights.read_bytes(entry)
    except WeightsError:
        return False
    return True


def _table(
    plan: Training,
    stage: Any,
    measured: Any,
    data: Dataset,
    test: Dataset,
    seconds: float,
    before: Entry | None,
    out: Path,
) -> dict[str, Any]:
    """The manifest's table for freshly trained weights."""
    from bench import weights

    twin_name = f"{stage.twin_name()}@{data.name}"
    known = {**weights.entries(), **weights.read_manifest(out)}
    twin = known.get(twin_name)
    static = (
        measured.accuracy
        if stage.weights_name(plan.stage_name) == stage.twin_name()
        else twin and twin.accuracy
    )
    if static is None:
        say(
            f"{twin_name} is not there, so the manifest says nothing of static_accuracy; train the static stage first"
        )
    return {
        "target": stage.target_name,
        "params": {**stage.target_params(), "num_classes": len(data.classes)},
        "licence": "MIT",
        "dataset": data.name,
        "recipe": plan.recipe,
        "stage": plan.stage_name,
        "seed": plan.seed,
        "accuracy": measured.accuracy,
        "static_accuracy": static,
        "clean_saving": measured.clean_saving,
        "spread": measured.spread,
        "ceiling": measured.ceiling,
        "gates_varying": measured.gates_varying,
        "opening_rates": list(measured.opening_rates),
        "epochs": stage.epochs,
        "seconds": round(seconds, 1),
        "started_from": before.name if before else None,
        "measured_on": f"{test} ({len(test)} images)",
        "training": plan.document(),
    }


def _record(history: Any, measured: Any) -> dict[str, Any]:
    """What goes beside the manifest, as `weights.read_record` returns it."""
    names = list(history[0]) if history else []
    curves = {name: [round(float(means[name]), 5) for means in history] for name in names}
    return {
        "curves": curves,
        "rates": list(measured.rates),
        "owners": [list(owner) for owner in measured.owners],
    }


def _describe(recipe: str, kind: Recipe) -> str:
    """The stages of a recipe with their settings."""
    from bench.plugins.declarations import read_class

    lines = [f"recipe {recipe}: {(kind.__doc__ or '').strip().splitlines()[0]}", ""]
    for stage in kind.stages.values():
        facts = read_class(stage.__module__, stage.__name__, lambda stage=stage: stage)  # type: ignore[misc]
        lines.append(facts.summary)
        lines.append(f"  starts from: {stage.start or 'random weights'}")
        lines += [f"  {parameter.describe()}" for parameter in facts.parameters.values()]
        lines.append("")
    lines.append(f"next: gatebench train {recipe} --stage {next(iter(kind.stages))}")
    return "\n".join(lines)


def _summary(entry: Entry) -> str:
    static = "" if entry.static_accuracy is None else f" (static twin {entry.static_accuracy:.1%})"
    lines = [f"{entry.name}: accuracy {entry.accuracy:.1%}{static}"]
    if entry.opening_rates:
        lines.append(
            f"  MACs saved on clean images {entry.clean_saving:.1%}, spread over images {entry.spread:.1%} of the ceiling"
        )
        rates = " ".join(f"{rate:.2f}" for rate in entry.opening_rates)
        lines.append(
            f"  gates open {rates}; {entry.gates_varying} units between 5 % and 95 % of the time"
        )
    lines.append(f"  {entry.path}")
    return "\n".join(lines)


class _display:  # noqa: N801 — a context manager used like a function
    """Live progress on a terminal, a plain line an epoch elsewhere."""

    def __init__(self, epochs: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.console = console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
        )
        self.progress = (
            Progress(*columns, console=self.console) if self.console.is_terminal else None
        )
        self.task = self.progress.add_task("training", total=None) if self.progress else None

    def __enter__(self) -> Watch:
        from bench.training.settings import Watch

        if self.progress:
            self.progress.start()
        return Watch(step=self._step, epoch=self._epoch, note=self._say)

    def __exit__(self, *error: object) -> None:
        if self.progress:
            self.progress.stop()

    def _step(self, done: int, total: int) -> None:
        if self.progress and self.task is not None:
            self.progress.update(self.task, completed=done, total=total)

    def _epoch(self, epoch: Epoch) -> None:
        shown = "  ".join(f"{name} {value:.3f}" for name, value in epoch.means.items())
        self._say(f"epoch {epoch.number:>3}/{epoch.of}  {shown}  {epoch.seconds:.0f} s")

    def _say(self, text: str) -> None:
        from rich.text import Text

        self.console.print(Text(message(text)))
