"""`gatebench plugin`: contract tests on somebody's target or attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


@click.group()
def plugin() -> None:
    """Test a target or an attack of your own against its contract."""


@plugin.command()
@click.argument("plugin_name", metavar="PLUGIN")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A parameter of the plugin, in TOML's notation.")
@click.option(
    "--weights", "weights_name", default=None, metavar="NAME", help='For a target: weights to load, or "random:SEED" (default random:0).'
)
@click.option(
    "--target", "target_name", default=None, metavar="NAME", help="For an attack: the target to try it on (default: the toy target)."
)
def test(plugin_name: str, overrides: Sequence[str], weights_name: str | None, target_name: str | None) -> None:
    """Run the contract tests on PLUGIN: "MODULE:CLASS", or the name of an installed target or attack.

    \b
    gatebench plugin test my_package.networks:MyTarget --set depth=20
    gatebench plugin test my-attack
    """
    import tomllib

    from bench.api import Attack, Target
    from bench.errors import ContractBroken, PlanError

    made = _find(plugin_name)
    params: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise PlanError(f"--set {override}: expected key=value, for example --set depth=20")
        try:
            params[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            params[key.strip()] = value
    if isinstance(made, type) and issubclass(made, Target):
        findings = _target(made, params, weights_name)
    elif isinstance(made, type) and issubclass(made, Attack):
        findings = _attack(made, params, target_name)
    else:
        raise ContractBroken(f"{plugin_name} is {made!r}, neither a bench.api.Target nor a bench.api.Attack")
    failed = 0
    for finding in findings:
        failed += bool(finding.problem)
        click.secho(f"{'FAIL' if finding.problem else 'ok  '}  {finding.promise}", fg="red" if finding.problem else "green")
        if finding.problem:
            click.echo(f"      {finding.problem}")
    click.echo(f"{len(findings) - failed} promises kept, {failed} broken")
    if failed:
        raise ContractBroken(f"{plugin_name} does not keep its contract")


def _find(name: str) -> Any:
    from bench import registry
    from bench.errors import PluginError, UnknownName

    if ":" in name:
        import importlib
        import sys

        module, _, attribute = name.partition(":")
        sys.path.insert(0, "")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            raise PluginError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    for kind in ("target", "attack"):
        if name in registry.names(kind):
            return registry.load(kind, name)
    raise UnknownName("target or attack", name, [*registry.names("target"), *registry.names("attack")])


def _make(made: type, params: dict[str, Any]) -> Any:
    from bench.errors import PluginError

    try:
        return made(**params)
    except Exception as error:
        raise PluginError(f"{made.__name__} cannot be made with {params}: {type(error).__name__}: {error}") from error


def _target(made: type, params: dict[str, Any], weights_name: str | None) -> Any:
    import re

    import torch

    from bench import weights
    from bench.errors import PlanError
    from bench.testing import check_target

    if weights_name and not weights_name.startswith("random:"):
        entry = weights.find(weights_name)
        target = _make(made, {**entry.params, **params})
        weights.load_into(target, weights.read_state(entry))
    else:
        seed = (weights_name or "random:0")[7:]
        if not re.fullmatch(r"[0-9]{1,18}", seed):
            raise PlanError(f'--weights {weights_name}: expected "random:SEED" with a whole number')
        torch.manual_seed(int(seed))
        target = _make(made, params)
    return check_target(target)


def _attack(made: type, params: dict[str, Any], target_name: str | None) -> Any:
    import torch

    from bench.testing import check_attack

    target = None
    if target_name:
        torch.manual_seed(0)
        target = _make(_find(target_name), {})
    return check_attack(_make(made, params), target)
