"""`gatebench doctor`: whether this installation can be trusted, and what it has to work with."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli.options import as_json, emit
from bench.terminal import LONGEST_LINE, cell, console, counted, say

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from bench.plugins.registry import Provider

PACKAGES = ("bench", "attacks", "targets", "reports")
IMPORT_LIMIT = 60.0
"""Seconds that importing one plugin may take."""
LITTLE_SPACE = 2e9
"""Bytes; a full run with its images takes less, two of them may not."""


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis; `state` is "ok", "note" (worth knowing) or "bad" (exit code 7)."""

    group: str
    name: str
    state: str
    detail: str


@click.command()
@click.option(
    "--json", "json_file", metavar="FILE", help='Write the diagnosis as JSON; "-" is the terminal.'
)
def doctor(json_file: str | None) -> None:
    """Examine the environment: Python, torch, devices, dependencies, plugins, data, weights.

    Imports every plugin to see whether it can be. Exit code 7 if anything is bad, 0 otherwise.
    """
    if json_file is not None:
        checks = [vars(check) for check in diagnose()]
        emit(json_file, as_json({"schema": 1, "checks": checks}))
        if any(check["state"] == "bad" for check in checks):
            raise SystemExit(7)
        return
    out = console()
    colors = {"ok": "green", "note": "yellow", "bad": "bold red"}
    group, bad = "", 0
    for check in diagnose():
        if check.group != group:
            group = check.group
            out.print()
            out.print(cell(group, "bold"))
        mark = cell(f"  {check.state:<5}", colors[check.state])
        line = cell(f"{check.name:<24} {check.detail}", longest=LONGEST_LINE)
        out.print(mark + line, soft_wrap=True)
        bad += check.state == "bad"
    say()
    say(f"{bad} bad" if bad else "all well")
    if bad:
        raise SystemExit(7)


def diagnose() -> Iterator[Check]:
    """Every check in turn; one that fails in an unforeseen way is a bad line, not a crash."""
    parts: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("system", _system),
        ("packages", _packages),
        ("dependencies", _dependencies),
        ("plugins", _plugins),
        ("weights", _weights),
        ("folders", _folders),
    ]
    for group, part in parts:
        try:
            yield from part()
        except Exception as error:  # the doctor survives its patients
            yield Check(group, "examination", "bad", f"failed: {type(error).__name__}: {error}")


def _system() -> Iterator[Check]:
    supported = sys.version_info >= (3, 11)
    yield Check(
        "system",
        "python",
        "ok" if supported else "bad",
        f"{platform.python_version()} on {platform.platform(terse=True)}",
    )
    try:
        import torch
    except Exception as error:  # a broken torch may raise OSError, ImportError or worse
        yield Check("system", "torch", "bad", f"cannot be imported: {error}")
        return
    yield Check(
        "system",
        "torch",
        "ok",
        f"{torch.__version__}, {counted(torch.get_num_threads(), 'thread')}",
    )
    yield Check("system", "cpu", "ok", platform.processor() or platform.machine())
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        facts = torch.cuda.get_device_properties(index)
        yield Check(
            "system", f"cuda:{index}", "ok", f"{facts.name}, {facts.total_memory / 1e9:.0f} GB"
        )
    if torch.backends.mps.is_available():
        yield Check("system", "mps", "ok", "Apple GPU")
    elif not count:
        yield Check("system", "gpu", "note", "none; everything runs on the CPU")


def _packages() -> Iterator[Check]:
    """The four top-level names are common words; another distribution may have taken one."""
    import bench

    home = Path(bench.__file__).resolve().parent.parent
    for name in PACKAGES:
        yield locate(name, home)


def locate(name: str, home: Path) -> Check:
    """Whether the package `name` is found in the folder `home`, where `bench` came from."""
    spec = importlib.util.find_spec(name)
    places = (
        [Path(place).resolve() for place in (spec.submodule_search_locations or ())] if spec else []
    )
    if not places:
        return Check("packages", name, "bad", "not found; install gatebench again")
    if places != [home / name]:
        shown = ", ".join(map(str, places))
        return Check(
            "packages",
            name,
            "bad",
            f"comes from {shown}, but bench lies in {home}: another distribution took the name",
        )
    return Check("packages", name, "ok", str(places[0]))


def _dependencies() -> Iterator[Check]:
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("gatebench") or ()]
    except PackageNotFoundError:
        yield Check(
            "dependencies",
            "gatebench",
            "bad",
            "is not installed (no metadata), so its plugins are not found; pip install -e .",
        )
        return
    for requirement in wanted:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield dependency(requirement.name, str(requirement.specifier))


def dependency(name: str, bounds: str) -> Check:
    """Whether the distribution `name` is installed, within `bounds` such as ">=2.11,<3"."""
    from packaging.specifiers import SpecifierSet

    try:
        found = version(name)
    except PackageNotFoundError:
        return Check("dependencies", name, "bad", f"is not installed, needs {bounds}")
    if not SpecifierSet(bounds).contains(found, prereleases=True):
        return Check("dependencies", name, "bad", f"{found} is outside {bounds}")
    return Check("dependencies", name, "ok", f"{found} ({bounds})" if bounds else found)


def _plugins() -> Iterator[Check]:
    from bench.plugins import registry

    everything = [
        provider
        for kind in registry.GROUPS
        if kind != "weights"
        for provider in registry.providers(kind)
    ]
    for provider, problem in zip(everything, _import_problems(everything), strict=True):
        detail = f"{provider.value} from {provider.distribution}"
        name = f"{provider.kind} {provider.name}"
        yield Check("plugins", name, "bad" if problem else "ok", problem or detail)
    for distribution in registry.unreadable():
        said = "its entry points cannot be read, so nothing of it is found; install it again"
        yield Check("plugins", distribution, "bad", said)


def _import_problems(providers: Sequence[Provider]) -> Iterator[str | None]:
    """Why each cannot be imported, None where it can; they are imported in another process.

    A plugin that does not come back, or ends the process, is a problem; the next one gets a new
    process, and others of the same module are not tried again.
    """
    from bench.executors.processes import start

    left, ended = list(providers), dict[str, str]()
    while left:
        untried = [provider for provider in left if _module(provider) not in ended]
        process, connection = start(_import_each, untried)
        try:
            while left:
                if known := ended.get(_module(left[0])):
                    left.pop(0)
                    yield known
                    continue
                if not connection.poll(IMPORT_LIMIT):
                    problem = f"does not finish importing within {IMPORT_LIMIT:.0f} s"
                    break
                yield connection.recv()
                left.pop(0)
            else:
                return
        except (EOFError, OSError):
            problem = "ends the process that imports it"
        finally:
            process.kill()
            process.join()
            connection.close()
        ended[_module(left.pop(0))] = problem
        yield problem


def _module(provider: Provider) -> str:
    return provider.value.partition(":")[0]


def _import_each(connection: Connection, providers: Sequence[Provider]) -> None:
    for provider in providers:
        connection.send(provider.error())


def _weights() -> Iterator[Check]:
    from bench import weights
    from bench.errors import WeightsError

    for manifest in weights.manifests():
        if manifest.problem:
            yield Check("weights", manifest.origin, "bad", manifest.problem)
            continue
        yield Check(
            "weights", manifest.origin, "ok", f"{len(manifest.entries)} in {manifest.folder}"
        )
        for name, entry in manifest.entries.items():
            try:
                weights.check_files(entry)
            except weights.NotInstalled as error:
                yield Check("weights", name, "note", f"{error.message}; {error.hint}")
            except WeightsError as error:
                yield Check("weights", name, "bad", error.message)
    for name in weights.entries():
        if "/" in name:
            yield Check(
                "weights",
                name,
                "note",
                "the same name is taken by another manifest; write it with its prefix",
            )


def _folders() -> Iterator[Check]:
    from bench.files.home import data_home, home, weights_home

    for name, folder in (
        ("GATEBENCH_HOME", home()),
        ("data", data_home()),
        ("weights", weights_home()),
    ):
        yield Check(
            "folders", name, "ok", f"{folder}{'' if folder.is_dir() else ' (made when needed)'}"
        )
    from bench.files.settings import CONFIG, settings

    chosen = settings()
    told = [f"out {chosen.out}"]
    told += [f"data root {chosen.data_root}"] if chosen.data_root else []
    told += [f"device {chosen.device}"] if chosen.device else []
    where = home() / CONFIG
    yield Check(
        "folders",
        "settings",
        "ok",
        f"{where}{'' if where.is_file() else ' (none)'}: {', '.join(told)}",
    )
    for name, folder in (("space here", Path.cwd()), ("space at home", home())):
        free = shutil.disk_usage(_existing(folder)).free
        yield Check(
            "folders", name, "note" if free < LITTLE_SPACE else "ok", f"{free / 1e9:.1f} GB free"
        )


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that is there."""
    return folder if folder.exists() or folder == folder.parent else _existing(folder.parent)
