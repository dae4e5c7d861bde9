"""`gatebench weights import`: a checkpoint made elsewhere, read without running code in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from bench.terminal import counted, say

if TYPE_CHECKING:
    from torch import Tensor

    from bench.weights.entry import Entry
    from bench.weights.parts import WeightsPart

Translate: TypeAlias = "Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]"


@click.command("import")
@click.argument("source", metavar="SOURCE")
@click.option("--target", required=True, help="The network, as in a plan: NAME, or NAME:PRESET.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of the network; may be repeated.",
)
@click.option("--as", "name", required=True, help="Name of the weights from now on.")
@click.option("--dataset", default="", help="The data set they were trained on.")
@click.option(
    "--part",
    default="",
    metavar="NAME",
    help="The state to take from a file that holds several, such as model_ema.",
)
@click.option(
    "--rows",
    default="",
    metavar="N,N,…",
    help="Classes of the last layer to keep, by their numbers, in this order.",
)
@click.option(
    "--licence", default="", help="SPDX identifier of their licence, where the source has none."
)
def import_weights(
    source: str,
    target: str,
    settings: tuple[str, ...],
    name: str,
    dataset: str,
    part: str,
    rows: str,
    licence: str,
) -> None:
    """Import a checkpoint made elsewhere.

    SOURCE is a file of torch (.pth, .pth.tar), safetensors, or TensorFlow variables by name (.npz);
    or hub:MODEL, what timm knows for a model (fetched, unless it lies in the cache); or
    package:MODULE/PATH, a file in an installed package, which stays there: the manifest says where.

    No code in it is run. What trainers wrap around a state dictionary is opened, prefixes of
    wrappers are dropped, and what is left out is said. The rest is translated by the network,
    checked name by name and shape by shape, and stored as safetensors in GATEBENCH_HOME/weights.

    \b
    Example:
      gatebench weights import resnet-110-rnn-sp-cifar10.pth.tar \\
          --target skipnet --set depth=110 --as skipnet-110-official
      gatebench weights import sact-cifar10.npz \\
          --target sact --set depth=32 --as sact-32-official
      gatebench weights import hub:resnet18.a1_in1k --target sdn --as resnet18-static@imagenet \\
          --set backbone=resnet18 --set exits=none --dataset imagenet
    """
    from bench import weights as store
    from bench.errors import PlanError, WeightsError
    from bench.files.home import weights_home
    from bench.plugins.parameters import as_arguments
    from bench.weights.checkpoint import read_checkpoint
    from bench.weights.place import placed
    from bench.weights.sources import PACKAGE, check_preparation, file_digest, locate

    if not store.NAME.fullmatch(name):
        raise PlanError(
            f"--as {name}: small letters, digits and . _ @ + -, at most 96, a letter or digit first"
        )
    there = store.entries().get(name)
    if there is not None and (there.origin != "own" or _is_whole(there)):
        raise PlanError(
            f"--as {name}: there are weights of that name already",
            hint="'gatebench weights list' shows them",
        )
    base, kind, parameters = _network(target, settings)
    translate: Translate | None = getattr(kind, "from_official", None)
    network = kind(**as_arguments(parameters))
    names = network.state_dict().keys()

    def fits(state: Mapping[str, Tensor]) -> bool:
        if translate is None and state.keys() != names:
            return False  # at once: a file may hold thousands of other networks
        try:
            return not store.mismatches(network, translate(state) if translate else state)
        except Exception:  # a translation that is asked about the weights of another network
            return False

    check_preparation(source, parameters)
    located = locate(source)
    file = located.path
    checkpoint = read_checkpoint(file, part=part, fits=fits)
    elsewhere: list[WeightsPart] = []
    licence = licence or located.licence
    digest = file_digest(file)
    inner = placed(network, checkpoint.state, source, _rows(rows))
    state: Mapping[str, Tensor] = checkpoint.state
    if rows and inner is None and (fits(state) or placed(network, state, source) is not None):
        raise WeightsError(
            f"--rows {rows}: {source} has as many classes as the network, or it is no plain "
            "classifier: there are no rows to choose from",
            hint="leave --rows out, or let the network have the classes that are kept: "
            "--set num_classes=N",
        )
    if inner is not None:
        state = {**network.state_dict(), **inner[1]}
        if source.startswith(PACKAGE):
            elsewhere.append(replace(inner[0], sha256=digest, licence=licence))
    else:
        state = translate(state) if translate else state
    try:
        store.load_into(network, state, f"the weights in {file}")
    except WeightsError as error:
        shown = ", ".join(f"{key} = {value}" for key, value in parameters.items())
        raise WeightsError(
            error.message, hint=f"the network asked for has {shown}; --set changes that"
        ) from error
    say(
        f"read     {counted(len(checkpoint.state), 'tensor')}"
        + "".join(f", {key} {value}" for key, value in checkpoint.facts.items())
    )
    for line in checkpoint.left_out:
        say(f"left out {line}")
    for line in _mapping(checkpoint.state, state, bool(translate)):
        say(f"mapped   {line}")
    values: dict[str, Any] = {
        "target": base,
        "params": parameters,
        "dataset": dataset,
        "licence": licence,
        "recipe": "imported",
    }
    entry = store.add_entry(
        weights_home(),
        name,
        network.state_dict(),
        {**values, "source_file": file.name, "source_sha256": digest},
        parts=elsewhere,
        replaces=there,
    )
    say(
        f"wrote    {entry.path} ({counted(len(state), 'tensor')}, "
        f"{(entry.bytes or 0) / 1e6:.1f} MB, "
        f"sha256 {entry.sha256[:12]}…)"
    )
    say(f'use it   [[target]]\n         use = "{base}"\n         weights = "{name}"')


def _network(target: str, settings: tuple[str, ...]) -> tuple[str, Any, dict[str, Any]]:
    """(name, class, parameters) of the network that `--target` and `--set` ask for.

    Raises:
        PlanError: it is unknown, or has no such preset or parameter.
    """
    from bench.errors import PlanError, did_you_mean
    from bench.files.toml import read_setting
    from bench.plugins import registry
    from bench.plugins.parameters import resolve_params

    base, colon, preset = target.partition(":")
    provider = registry.find("target", base, where="--target")
    facts = provider.facts()
    if colon and preset not in facts.presets:
        raise PlanError(
            f"--target {target}: {base} has no preset {preset!r}"
            f"{did_you_mean(preset, facts.presets)}"
        )
    given = {
        **(facts.presets[preset] if colon else {}),
        **dict(read_setting(text, "depth=110") for text in settings),
    }
    parameters = resolve_params(facts.parameters, given, "--set")
    return base, provider.load(), parameters


def _is_whole(entry: Entry) -> bool:
    """Whether the file of these weights is there, as it was written.

    One that is not may be replaced.
    """
    from bench import weights as store
    from bench.errors import WeightsError

    try:
        store.read_bytes(entry)
    except WeightsError:
        return False
    return True


def _rows(text: str) -> tuple[int, ...]:
    """The numbers of `--rows`.

    Raises:
        PlanError: they are none.
    """
    from bench.errors import PlanError

    try:
        found = tuple(int(one) for one in text.split(",") if one.strip())
    except ValueError as error:
        raise PlanError(f"--rows {text}: whole numbers with commas between them") from error
    if any(one < 0 for one in found) or len(set(found)) != len(found):
        raise PlanError(f"--rows {text}: each class once, from 0 on")
    return found


def _mapping(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    translated: bool,
) -> list[str]:
    """What became of the names, in a few lines."""
    kept = before.keys() & after.keys()
    lines = [f"{counted(len(kept), 'tensor')} under their own names"]
    if translated:
        dropped, added = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
        counters = [key for key in added if key.endswith("num_batches_tracked")]
        renamed = [key for key in added if key not in set(counters)]
        groups = (
            ("left out or renamed", dropped),
            ("new names", renamed),
            ("counters that old torch did not save, set to 0", counters),
        )
        lines += [
            f"{len(keys)} {what}: {', '.join(keys[:4])}{' …' if len(keys) > 4 else ''}"
            for what, keys in groups
            if keys
        ]
    return lines
