"""`gatebench train`: train networks by a recipe, one stage after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.files.settings import settings
from bench.terminal import counted, say

if TYPE_CHECKING:
    from torch import device

    from bench.contracts.recipe import Recipe, Stage
    from bench.training.precision import Choice, Precision
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
    help="Of the initialization, the order of images, crops and sampled gates.",
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    help="Train on so many images of the split only, the first in the fixed order.",
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
    default=lambda: settings().data_root,
    help="The folder that the data set lies in.",
)
@click.option(
    "--device",
    default=lambda: settings().device or "auto",
    metavar="NAME",
    help="cuda, cpu, mps, or auto; default: auto, or as your config.toml says.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "bf16", "fp32"]),
    default="auto",
    show_default=True,
    help="bf16 trains under autocast; auto takes what is faster. Measured is always in float32.",
)
@click.option(
    "--fresh",
    is_flag=True,
    help="Start again, even where a checkpoint or finished weights are there, and replace them.",
)
def train(
    recipe: str,
    stage: str | None,
    dataset: str,
    seed: int,
    images: int | None,
    epochs: int | None,
    settings: tuple[str, ...],
    start: str | None,
    name: str | None,
    out: Path | None,
    data_root: Path | None,
    device: str,
    precision: Choice,
    fresh: bool,
) -> None:
    """Train networks by a RECIPE ('gatebench list recipes' shows them).

    A recipe is a chain of stages. For SkipNet:

    \b
      gatebench train skipnet                   the stages and their settings
      gatebench train skipnet --stage static    the plain ResNet to compare with
      gatebench train skipnet --stage sp        gates from cross-entropy alone
      gatebench train skipnet --stage budget    gates under a budget of blocks
      gatebench train skipnet --stage hrl       policy gradient, from 'budget'
      gatebench train skipnet --stage hrl \\
          --from skipnet-20-sp@digits-m --set alpha=0.4

    A checkpoint is written after every epoch and every five minutes. After Ctrl-C, a crash or a
    kill the same command goes on from the last one, and ends in the same weights bit for bit (on
    the same machine, thread count and versions).

    The finished weights are a safetensors file and a table in manifest.toml with what was measured
    on the test images: accuracy, that of the static twin, MACs saved, their spread, and how often
    each gate opens. A plan uses them by name:

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
    asked = _Asked(
        recipe=recipe,
        kind=kind,
        stage=stage,
        settings=settings,
        dataset=dataset,
        seed=seed,
        images=images or 0,
        start=start,
        name=name,
        out=out or weights_home(),
        data_root=data_root,
        device=device,
        precision=precision,
        fresh=fresh,
    )
    _train(asked)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What the command line asks for; the options of `gatebench train` by their names."""

    recipe: str
    kind: Recipe
    stage: str
    settings: tuple[str, ...]
    dataset: str
    seed: int
    images: int
    start: str | None
    name: str | None
    out: Path
    data_root: Path | None
    device: str
    precision: Choice
    fresh: bool


def _train(asked: _Asked) -> None:
    from bench import weights
    from bench.cli.training_display import TrainingDisplay
    from bench.files.home import weights_home
    from bench.training import inputs, loop, results
    from bench.training.evaluate import measure
    from bench.training.settings import Training

    stage_class = asked.kind.stages[asked.stage]
    stage = stage_class(**_settings(stage_class, asked.settings))
    where = loop.pick_device(asked.device)
    data, test = inputs.open_splits(asked.dataset, asked.data_root)
    name = asked.name or f"{stage.weights_name(asked.stage)}@{data.name}"
    weights.check_name(name)
    before, state = inputs.find_start(stage, asked.start, data.name, asked.out, asked.recipe)
    borrowed, theirs = inputs.borrow(stage, len(data.classes), asked.out)
    if borrowed:
        state = {**(state or {}), **theirs}
    taught_by, teacher = inputs.find_teacher(stage, data, asked.out)
    checkpoint = asked.out / "checkpoints" / f"{name}.pt"
    precision = _precision(asked, name, checkpoint, where)
    start = inputs.start_digest(before, borrowed)
    plan = Training(
        asked.recipe,
        asked.stage,
        stage,
        data.name,
        asked.seed,
        precision,
        start,
        asked.images,
        inputs.images_digest(data),
        taught_by.digest if taught_by else "",
    )
    if not asked.fresh and results.is_finished(name, plan, asked.out):
        say(
            f"{name} is already trained with these settings, in {asked.out}; "
            "--fresh trains it again"
        )
        return
    if not asked.fresh:
        results.check_replaced(name, plan, asked.out, checkpoint)
    say(
        f"{asked.recipe}/{asked.stage} on {data} "
        f"({counted(asked.images or len(data), 'image')}, "
        f"{counted(stage.epochs, 'epoch')}), seed {asked.seed}, {where}, {precision} -> {name}"
    )
    with _held(checkpoint, name):
        if asked.fresh:
            checkpoint.unlink(missing_ok=True)
        try:
            with TrainingDisplay() as watch:
                trained = loop.train(
                    plan, data, checkpoint, start=state, teacher=teacher, device=where, watch=watch
                )
        except KeyboardInterrupt:
            say("stopped; the same command goes on after the last checkpoint", err=True)
            raise
        measured = measure(trained.target, test)
        values = results.manifest_values(
            plan, measured, data, test, trained.seconds, before, asked.out
        )
        noted = results.record(trained.history, measured)
        candidates = [*borrowed, *(before.parts if before else ())]
        kept = results.untouched(candidates, state or {}, trained.target)
        tensors = trained.target.state_dict()
        if getattr(stage, "rounded", False):
            tensors = weights.halved(tensors)
        entry = weights.add_entry(asked.out, name, tensors, values, noted, kept)
        checkpoint.unlink(missing_ok=True)
    if values["static_accuracy"] is None:
        say(
            f"{results.twin_name(plan, data.name)} is not there, or was measured on other images, "
            "so the manifest says nothing of static_accuracy; train the static stage first"
        )
    say(_summary(entry))
    others = weights.entries().get(name)
    if asked.out == weights_home() and others is not None and others.origin != "own":
        say(f'in a plan: weights = "own/{name}", since {name!r} are those of {others.origin}')


@contextlib.contextmanager
def _held(checkpoint: Path, name: str) -> Iterator[None]:
    """Hold a checkpoint, and the weights that it becomes, for this process; its folder goes when it
    is empty.

    Raises:
        InUse: another process trains weights of that name.
    """
    from bench.errors import InUse
    from bench.files.locks import claimed
    from bench.files.writing import make_folder

    def taken(owner: str) -> InUse:
        return InUse(
            f"{name} is being trained by another gatebench (process {owner})",
            hint="wait for it, end it, or name these weights otherwise with --as",
        )

    make_folder(checkpoint.parent)
    lock = checkpoint.with_suffix(".lock")
    with claimed(lock, taken, "move it away, or name these weights otherwise with --as"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else is in it
        checkpoint.parent.rmdir()


def _precision(asked: _Asked, name: str, checkpoint: Path, where: device) -> Precision:
    """The precision to train in; what was begun in one goes on in it by default."""
    from bench.training.inputs import precision_before
    from bench.training.precision import choose_precision

    choice = asked.precision
    if choice == "auto" and not asked.fresh:
        before = precision_before(name, checkpoint, asked.out)
        choice = "bf16" if before == "bf16" else "fp32" if before == "fp32" else "auto"
    return choose_precision(choice, where)


def _settings(stage_class: type, settings: tuple[str, ...]) -> dict[str, Any]:
    """The settings given on the command line, of the types that the stage declares.

    Raises:
        PlanError: listing every unknown setting and wrong type.
    """
    from bench.files.toml import read_setting
    from bench.plugins.declarations import read_class
    from bench.plugins.parameters import resolve_params

    given = dict(read_setting(text, "epochs=3") for text in settings)
    facts = read_class(stage_class.__module__, stage_class.__name__, lambda: stage_class)
    return resolve_params(facts.parameters, given, "--set")


def _describe(recipe: str, kind: Recipe) -> str:
    """The stages of a recipe with their settings."""
    from bench.plugins.declarations import read_class

    lines = [f"recipe {recipe}: {(kind.__doc__ or '').strip().splitlines()[0]}", ""]
    for stage in kind.stages.values():
        facts = read_class(stage.__module__, stage.__name__, partial(_itself, stage))
        lines.append(facts.summary)
        lines.append(f"  starts from: {stage.start or 'random weights'}")
        lines += [f"  {parameter.describe()}" for parameter in facts.parameters.values()]
        lines.append("")
    lines.append(f"next: gatebench train {recipe} --stage {next(iter(kind.stages))}")
    return "\n".join(lines)


def _itself(stage: type[Stage]) -> type[Stage]:
    return stage


def _summary(entry: Entry) -> str:
    static = "" if entry.static_accuracy is None else f" (static twin {entry.static_accuracy:.1%})"
    lines = [f"{entry.name}: accuracy {entry.accuracy:.1%}{static}"]
    if entry.opening_rates:
        lines.append(
            f"  MACs saved on clean images {entry.clean_saving:.1%}, spread over images "
            f"{entry.spread:.1%} of the ceiling"
        )
        rates = " ".join(f"{rate:.2f}" for rate in entry.opening_rates)
        lines.append(
            f"  gates open {rates}; {entry.gates_varying} units between 5 % and 95 % of the time"
        )
    lines.append(f"  {entry.path}")
    return "\n".join(lines)
