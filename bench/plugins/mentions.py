"""What a module's source mentions without having used it: imports, environment variables, files.

An import inside of a function or after `try` runs late or not at all; a variable or a file is read
whenever the function is called. They are found in the syntax tree where their names are written
out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LONGEST = 255
"""Characters of a text that may be the name of a file."""
_READERS = frozenset({"get", "pop", "setdefault"})


@dataclass(frozen=True)
class Mentions:
    """Names in a source file.

    Attributes:
        modules: absolute names of imported modules, and of what is imported from them.
        variables: environment variables.
        texts: that may be names of files.
    """

    modules: frozenset[str] = frozenset()
    variables: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()


def mentions(path: Path, module: str) -> Mentions:
    """What a source file mentions; nothing where it is no Python.

    Args:
        path: of the file.
        module: its dotted name; relative imports start from its package.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return Mentions()
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    nodes = list(ast.walk(tree))
    return Mentions(
        frozenset(name for node in nodes for name in _imports(node, package)),
        frozenset(name for node in nodes for name in _variables(node)),
        frozenset(text for node in nodes for text in _texts(node)),
    )


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = package.split(".")
        above = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
        origin = ".".join(filter(None, [above, node.module]))
        if origin:
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names if alias.name != "*")
    elif isinstance(node, ast.Call) and _called(node.func) in ("import_module", "__import__"):
        yield from (name for name in _literal(node.args[:1]) if not name.startswith("."))


def _variables(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call):
        reads = _called(node.func) == "getenv" or (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in _READERS
            and _called(node.func.value) == "environ"
        )
        if reads:
            yield from _literal(node.args[:1])
    elif isinstance(node, ast.Subscript) and _called(node.value) == "environ":
        yield from _literal([node.slice])
    elif isinstance(node, ast.Compare) and any(_called(e) == "environ" for e in node.comparators):
        yield from _literal([node.left])


def _texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
        if "." in text and len(text) <= LONGEST and text.isprintable():
            yield text


def _called(node: ast.expr) -> str:
    """The last part of a name: "environ" of `os.environ`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _literal(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
