"""The package that `gatebench plugin new` writes: one class, its entry point, and its test."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from bench.errors import PlanError
from bench.files.atomic import write_atomic
from bench.files.writing import make_folder
from bench.plugins.registry import GROUPS

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

PYPROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{distribution}"
version = "0.1.0"
description = "A {kind} for gatebench"
requires-python = ">=3.11"
dependencies = ["gatebench"]

[project.entry-points."{group}"]
{name} = "{module}:{made}"

[tool.hatch.build.targets.wheel]
packages = ["src/{package}"]
"""

README = """# {distribution}

A {kind} for gatebench, called `{name}` in plans.

```text
pip install -e .
gatebench plugin test {module}:{made}
pytest
```

{use}
"""

_USE = {
    "target": 'In a plan:\n\n```toml\n[[target]]\nuse = "{name}"\nweights = "random:0"\n```',
    "attack": 'In a plan:\n\n```toml\n[[attack]]\nuse = "{name}"\n```',
    "defense": 'In a plan:\n\n```toml\n[[defense]]\nuse = "{name}"\n```',
    "dataset": 'In a plan: `dataset = "{name}:test"`.',
    "recipe": "Train it: `gatebench train {name} --dataset digits-m`.",
    "report": "Render a run: `gatebench report RUN --use {name} --out FOLDER`.",
}

_CALLS = {
    "target": "check_target({made}())",
    "attack": "check_attack({made}())",
    "defense": "check_defense({made}())",
    "dataset": "check_dataset({made})",
    "recipe": "check_recipe({made})",
    "report": "check_report({made}())",
}

TEST = '''"""The {kind} keeps its contract."""

from {module} import {made}

from bench.testing import {check}, problems


def test_contract():
    assert not problems({call})
'''


def write_package(kind: str, name: str, out: Path | None) -> tuple[Path, str, str]:
    """Write the package.

    Args:
        kind: of the plugin: a key of `registry.GROUPS` for which there is a template.
        name: that plans will use.
        out: folder of the package; `gatebench-NAME` unless given.

    Returns:
        Its folder, the plugin's module, and the class.

    Raises:
        PlanError: the name is none, or the folder is there already.
        DiskError: the disk refused; nothing is left of the folder.
    """
    if not _NAME.fullmatch(name) or len(name) > 60:
        raise PlanError(
            f"{name!r} is no name of a plugin: lower-case letters, digits and '-', beginning with "
            "a letter"
        )
    folder = out or Path(f"gatebench-{name}")
    if folder.exists():
        raise PlanError(f"{folder} is there already", hint="choose another folder with --out")
    package = "gatebench_" + name.replace("-", "_")
    module = f"{package}.{name.replace('-', '_')}"
    made = "".join(part.capitalize() for part in name.split("-"))
    words = {
        "kind": {"dataset": "data set"}.get(kind, kind),
        "name": name,
        "made": made,
        "module": module,
        "package": package,
        "distribution": f"gatebench-{name}",
        "group": GROUPS[kind],
    }
    words["use"] = _USE[kind].format(**words)
    words["call"] = _CALLS[kind].format(**words)
    words["check"] = _CALLS[kind].partition("(")[0]
    try:
        for path, text in _contents(kind, words):
            make_folder((folder / path).parent)
            write_atomic(folder / path, text.encode())
    except BaseException:  # or the same command would find half a package there
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder, module, made


def _contents(kind: str, words: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Path in the package -> text."""
    template = files("bench.cli").joinpath("templates", f"{kind}.txt").read_text(encoding="utf-8")
    source = f"src/{words['package']}"
    yield "pyproject.toml", PYPROJECT.format(**words)
    yield "README.md", README.format(**words)
    yield f"{source}/__init__.py", f'"""A {words["kind"]} for gatebench: {words["name"]}."""\n'
    own = words["module"].rpartition(".")[2]
    plugin = template.replace("@MADE@", words["made"]).replace("@NAME@", words["name"])
    yield f"{source}/{own}.py", plugin
    yield "tests/test_contract.py", TEST.format(**words)
