"""`gatebench plugin`: contract tests on somebody's plugin, and a package to start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from bench.files.settings import settings
from bench.terminal import say

KINDS = ("target", "attack", "defense", "dataset", "recipe", "report")
"""Kinds that `plugin new` writes."""


@click.group()
def plugin() -> None:
    """Start a plugin of your own, and test it against its contract."""


@plugin.command()
@click.argument("kind", type=click.Choice(KINDS), metavar="|".join(KINDS))
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the package; default: gatebench-NAME.",
)
def new(kind: str, name: str, out: Path | None) -> None:
    """Write a small package with a plugin of KIND that passes its contract test at once.

    NAME is what plans will call it: lower-case letters, digits and '-'. Install it beside gatebench
    with pip install -e FOLDER.
    """
    from bench.cli.plugin_package import write_package

    folder, module, made = write_package(kind, name, out)
    say(f"wrote {folder}")
    say(f"install it:    pip install -e {folder}")
    say(f"test it:       gatebench plugin test {module}:{made}")
    say(f"read on:       docs/guides/{kind}.md")


@plugin.command()
@click.argument("plugin_name", metavar="PLUGIN")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of the plugin, in TOML's notation.",
)
@click.option(
    "--weights",
    "weights_name",
    default=None,
    metavar="NAME",
    help='For a target: weights to load, or "random:SEED" (default random:0).',
)
@click.option(
    "--target",
    "target_name",
    default=None,
    metavar="NAME",
    help="For an attack or a defense: the target to try it on (default: the toy target).",
)
@click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    default=lambda: settings().data_root,
    help="For a data set: the folder that it lies in.",
)
@click.option(
    "--deadline",
    type=click.IntRange(min=1),
    default=300,
    show_default=True,
    help="Seconds that all tests may take.",
)
def test(
    plugin_name: str,
    overrides: Sequence[str],
    weights_name: str | None,
    target_name: str | None,
    data_root: Path | None,
    deadline: int,
) -> None:
    """Run the contract tests on PLUGIN.

    PLUGIN is "MODULE:CLASS", or the name of an installed target, attack, defense, data set, recipe
    or report of boards; "KIND/NAME" where several share a name.

    The tests run in a process of their own, so a plugin that crashes, exits or hangs is told from
    one that passes.

    \b
    gatebench plugin test my_package.networks:MyTarget --set depth=20
    gatebench plugin test my-attack
    """
    from bench.errors import ContractBroken
    from bench.files.toml import read_setting
    from bench.plugins.constants import wrong_constant
    from bench.plugins.declarations import read_class

    made = _find(plugin_name)
    params = dict(read_setting(text, "depth=20") for text in overrides)
    if isinstance(made, type):
        facts = read_class(made.__module__, made.__qualname__, lambda: made)
        if wrong := wrong_constant(facts):
            raise ContractBroken(
                f"{plugin_name} breaks its contract: {wrong}",
                hint="correct the constant in the class, then run the same command again",
            )
    kind = _kind(made)
    if kind is None:
        raise ContractBroken(
            f"{plugin_name} is {made!r}, none of {', '.join(_CHECKS)} (see bench.api)",
            hint="name a class that derives from one of these, or the name of an installed plugin",
        )
    others = {"target": weights_name, "attack": target_name, "defense": target_name}
    other: Any = data_root if kind == "data set" else others.get(kind)
    findings = _guarded(deadline, _CHECKS[kind], plugin_name, params, other)
    failed = 0
    for finding in findings:
        failed += bool(finding.problem)
        word, color = ("FAIL", "red") if finding.problem else ("ok  ", "green")
        if finding.skipped:
            word, color = "-   ", "yellow"
        say(f"{word}  {finding.promise}", color=color)
        if finding.problem or finding.skipped:
            say(f"      {finding.problem or f'does not apply: {finding.skipped}'}")
        if finding.hint:
            say(f"      {finding.hint}")
    skipped = sum(bool(finding.skipped) for finding in findings)
    rest = f", {skipped} that do not apply" if skipped else ""
    say(f"{len(findings) - failed - skipped} promises kept, {failed} broken{rest}")
    if failed:
        raise ContractBroken(
            f"{plugin_name} does not keep its contract",
            hint="mend what FAIL names above, then run the same command again",
        )


def _guarded(deadline: int, check: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The findings of `check(*arguments)`, in a process that starts as that of a run's cell does.

    Raises:
        ContractBroken: the plugin ended that process, or was not done in time.
        GatebenchError: what the checks raised.
    """
    from bench.errors import ContractBroken, GatebenchError
    from bench.executors.processes import start

    process, here = start(_answer, check, arguments)
    try:
        if not here.poll(deadline):
            raise ContractBroken(
                f"{arguments[0]} was not done after {deadline} s; it hangs, or needs a longer "
                "--deadline",
                hint="give it a longer --deadline, or look for what it waits for",
            )
        answer = here.recv()
    except EOFError:
        process.join(10)
        code = process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise ContractBroken(
            f"{arguments[0]} ended the process it was tested in ({how})",
            hint="raise an exception instead of ending the process; a signal comes "
            "from native code that it calls",
        ) from None
    finally:
        process.kill()
        process.join()
    if isinstance(answer, GatebenchError):
        raise answer
    return list(answer)


def _answer(connection: Any, check: Callable[..., Any], arguments: Sequence[Any]) -> None:
    from bench.errors import GatebenchError

    try:
        connection.send(check(*arguments))
    except GatebenchError as error:
        connection.send(error)


def _find(name: str) -> Any:
    from bench.errors import PluginError, UnknownName
    from bench.plugins import registry

    if ":" in name:
        import importlib
        import sys

        module, _, attribute = name.partition(":")
        sys.path.insert(0, "")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{name} cannot be imported: {type(error).__name__}: {error}"
            ) from error
    known = [(kind, each) for kind in _KINDS for each in registry.names(kind)]
    wanted, _, plain = name.rpartition("/")
    chosen = [
        (kind, each)
        for kind, each in known
        if each == name or (each == plain and wanted in (kind, _KINDS[kind]))
    ]
    if len(chosen) > 1:
        choices = " or ".join(f"'{kind}/{each}'" for kind, each in chosen)
        raise PluginError(f"{name} is the name of several plugins; write {choices}")
    if chosen:
        return registry.load(*chosen[0])
    raise UnknownName("plugin", name, [each for _, each in known])


_KINDS = {
    "target": "target",
    "attack": "attack",
    "defense": "defense",
    "dataset": "data set",
    "recipe": "recipe",
    "report": "report",
}
"""Kinds of plugins that can be tested, and what they are called."""


def _kind(made: Any) -> str | None:
    """What an imported object is a plugin of, in words; None for nothing that can be tested."""
    from bench.contracts.attack import Attack
    from bench.contracts.dataset import Dataset
    from bench.contracts.defense import Defense
    from bench.contracts.report import BoardReport
    from bench.contracts.target import Target

    bases: dict[str, type] = {
        "target": Target,
        "attack": Attack,
        "defense": Defense,
        "data set": Dataset,
        "report": BoardReport,
    }
    if isinstance(made, type):
        for kind, base in bases.items():
            if issubclass(made, base):
                return kind
    return "recipe" if hasattr(made, "stages") else None


def _make(made: type, params: dict[str, Any]) -> Any:
    from bench.errors import PluginError

    try:
        return made(**params)
    except Exception as error:
        raise PluginError(
            f"{made.__name__} cannot be made with {params}: {type(error).__name__}: {error}"
        ) from error


def _target(plugin_name: str, params: dict[str, Any], weights_name: str | None) -> Any:
    import re

    import torch

    from bench import weights
    from bench.errors import PlanError
    from bench.testing import check_target

    if weights_name and not weights_name.startswith("random:"):
        entry = weights.find(weights_name)
        target = _make(_find(plugin_name), {**entry.params, **params})
        weights.load_entry(target, entry)
    else:
        seed = (weights_name or "random:0")[7:]
        if not re.fullmatch(r"[0-9]{1,18}", seed):
            raise PlanError(f'--weights {weights_name}: expected "random:SEED" with a whole number')
        torch.manual_seed(int(seed))
        target = _make(_find(plugin_name), params)
    return check_target(target)


def _attack(plugin_name: str, params: dict[str, Any], target_name: str | None) -> Any:
    from bench.testing import check_attack

    return check_attack(_make(_find(plugin_name), params), _tried_on(target_name))


def _defense(plugin_name: str, params: dict[str, Any], target_name: str | None) -> Any:
    from bench.testing import check_defense

    return check_defense(_make(_find(plugin_name), params), _tried_on(target_name))


def _dataset(plugin_name: str, params: dict[str, Any], data_root: Path | None) -> Any:
    from bench.testing import check_dataset

    return check_dataset(_find(plugin_name), data_root)


def _recipe(plugin_name: str, params: dict[str, Any], other: None) -> Any:
    from bench.testing import check_recipe

    return check_recipe(_find(plugin_name), params)


def _report(plugin_name: str, params: dict[str, Any], other: None) -> Any:
    from bench.testing import check_report

    return check_report(_make(_find(plugin_name), params))


def _tried_on(target_name: str | None) -> Any:
    import torch

    if not target_name:
        return None
    torch.manual_seed(0)
    return _make(_find(target_name), {})


_CHECKS: dict[str, Callable[[str, dict[str, Any], Any], Any]] = {
    "target": _target,
    "attack": _attack,
    "defense": _defense,
    "data set": _dataset,
    "recipe": _recipe,
    "report": _report,
}
"""What tests each kind of plugin, by the name of the kind."""
