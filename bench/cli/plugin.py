"""`gatebench plugin`: contract tests on a target, an attack or a defense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from bench.terminal import say


@click.group()
def plugin() -> None:
    """Test a target, an attack or a defense of your own against its contract."""


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
    deadline: int,
) -> None:
    """Run the contract tests on PLUGIN.

    PLUGIN is "MODULE:CLASS", or the name of an installed target, attack or defense.

    The tests run in a process of their own, so a plugin that crashes, exits or hangs is told from
    one that passes.

    \b
    gatebench plugin test my_package.networks:MyTarget --set depth=20
    gatebench plugin test my-attack
    """
    from bench.contracts.attack import Attack
    from bench.contracts.defense import Defense
    from bench.contracts.target import Target
    from bench.errors import ContractBroken
    from bench.files.toml import read_setting
    from bench.plugins.constants import wrong_constant
    from bench.plugins.declarations import read_class

    made = _find(plugin_name)
    params = dict(read_setting(text, "depth=20") for text in overrides)
    if isinstance(made, type):
        facts = read_class(made.__module__, made.__qualname__, lambda: made)
        if wrong := wrong_constant(facts):
            raise ContractBroken(f"{plugin_name} breaks its contract: {wrong}")
    if isinstance(made, type) and issubclass(made, Target):
        findings = _guarded(deadline, _target, plugin_name, params, weights_name)
    elif isinstance(made, type) and issubclass(made, Attack):
        findings = _guarded(deadline, _attack, plugin_name, params, target_name)
    elif isinstance(made, type) and issubclass(made, Defense):
        findings = _guarded(deadline, _defense, plugin_name, params, target_name)
    else:
        raise ContractBroken(
            f"{plugin_name} is {made!r}, neither a bench.api.Target nor a bench.api.Attack or "
            "Defense"
        )
    failed = 0
    for finding in findings:
        failed += bool(finding.problem)
        word, color = ("FAIL", "red") if finding.problem else ("ok  ", "green")
        say(f"{word}  {finding.promise}", color=color)
        if finding.problem:
            say(f"      {finding.problem}")
    say(f"{len(findings) - failed} promises kept, {failed} broken")
    if failed:
        raise ContractBroken(f"{plugin_name} does not keep its contract")


def _guarded(deadline: int, check: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The findings of `check(*arguments)`, run in a spawned process.

    Raises:
        ContractBroken: the plugin ended that process, or was not done in time.
        GatebenchError: what the checks raised.
    """
    import multiprocessing

    from bench.errors import ContractBroken, GatebenchError

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, check, arguments), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(deadline):
            raise ContractBroken(
                f"{arguments[0]} was not done after {deadline} s; it hangs, or needs a longer "
                "--deadline"
            )
        answer = here.recv()
    except EOFError:
        process.join(10)
        code = process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise ContractBroken(f"{arguments[0]} ended the process it was tested in ({how})") from None
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
    kinds = ("target", "attack", "defense")
    for kind in kinds:
        if name in registry.names(kind):
            return registry.load(kind, name)
    raise UnknownName(
        "target, attack or defense", name, [name for kind in kinds for name in registry.names(kind)]
    )


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


def _tried_on(target_name: str | None) -> Any:
    import torch

    if not target_name:
        return None
    torch.manual_seed(0)
    return _make(_find(target_name), {})
