"""What a class declares about itself, read from its source: parameters, presets, docstring, class constants.

Plans and listings must not import torch, and parameters are declared once, in the class's own signature. So the source is
read with `ast`: keyword-only arguments of `__init__`, or else the annotated fields of a dataclass, bases included. Where
the source cannot tell (a computed default, a foreign base), the class is imported and inspected instead.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

REQUIRED = inspect.Parameter.empty
"""Default of a parameter that has none."""

_PLAIN: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "tuple": tuple,
    "Fraction": Fraction,
    "None": None,
}
_CONSTANTS = (
    "ranges version follows unit skipped access randomised control presets unkeyed_defaults sizes image_shape fits forks needs threats step_cost members"
).split()
_OBJECT_BASES = {
    "ABC",
    "Attack",
    "Target",
    "Defense",
    "BoardReport",
    "ComparisonReport",
    "RegressionReport",
    "Protocol",
    "object",
    "nn.Module",
    "Module",
}


@dataclass(frozen=True)
class Parameter:
    """One keyword-only parameter: its name, its type and its default (`REQUIRED` if there is none)."""

    name: str
    annotation: Any
    default: Any

    def describe(self) -> str:
        """`steps: int | 'budget' = 100`."""
        text = f"{self.name}: {describe_type(self.annotation)}"
        return text if self.default is REQUIRED else f"{text} = {self.default!r}"


@dataclass(frozen=True)
class ClassFacts:
    """What a class says of itself.

    Attributes:
        doc: the whole docstring, cleaned. summary: its first line.
        parameters: by name, in order of declaration.
        constants: those of `_CONSTANTS` that it declares.
        source: the file it was read from, None if it had to be imported without one.
    """

    doc: str
    parameters: Mapping[str, Parameter]
    constants: Mapping[str, Any] = field(default_factory=dict)
    source: Path | None = None

    @property
    def summary(self) -> str:
        return self.doc.split("\n", 1)[0].strip()

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        found = self.constants.get("presets", {})
        return found if isinstance(found, Mapping) else {}


class _Unreadable(Exception):
    """The source alone does not tell."""


def read_class(module: str, name: str, fallback: Callable[[], Any]) -> ClassFacts:
    """The facts about `module:name`.

    Args:
        module: dotted name. name: of the class; "" reads the module itself.
        fallback: imports and returns the class, used when the source does not tell.

    Raises:
        whatever `fallback` raises.
    """
    try:
        tree, path = _parse(module)
        if not name:
            return ClassFacts(ast.get_docstring(tree) or "", {}, source=path)
        node = _class(tree, name)
        return ClassFacts(
            ast.get_docstring(node) or "",
            _parameters(node, tree),
            {**_inherited_constants(node, tree), **_constants(node)},
            path,
        )
    except _Unreadable:
        return _inspect(fallback())


def source_file(module: str) -> Path | None:
    """The file of a module, found without importing it or its parents; None if there is none."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder).joinpath(*rest)
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


@functools.cache
def _parse(module: str) -> tuple[ast.Module, Path]:
    path = source_file(module)
    if path is None or path.suffix != ".py":
        raise _Unreadable
    try:
        return ast.parse(path.read_text(encoding="utf-8")), path
    except (SyntaxError, UnicodeDecodeError, OSError) as error:
        raise _Unreadable from error


def _class(tree: ast.Module, name: str) -> ast.ClassDef:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise _Unreadable


def _imported(tree: ast.Module, name: str) -> tuple[str, str] | None:
    """(module, original name) of a `from module import name [as alias]` at the top of the file."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return node.module, alias.name
    return None


def _bases(node: ast.ClassDef, tree: ast.Module) -> list[tuple[ast.ClassDef, ast.Module]]:
    """The base classes whose source declares parameters of its own; the contracts' own bases declare none."""
    found = []
    for base in node.bases:
        name = ast.unparse(base)
        if name in _OBJECT_BASES or name.rpartition(".")[2] in _OBJECT_BASES:
            continue
        local = [
            other for other in tree.body if isinstance(other, ast.ClassDef) and other.name == name
        ]
        if local:
            found.append((local[0], tree))
            continue
        origin = _imported(tree, name)
        if origin is None:
            raise _Unreadable
        other_tree, _ = _parse(origin[0])
        found.append((_class(other_tree, origin[1]), other_tree))
    return found


def _parameters(node: ast.ClassDef, tree: ast.Module) -> dict[str, Parameter]:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _keyword_only(statement, tree)
    collected: dict[str, Parameter] = {}
    for base, base_tree in reversed(_bases(node, tree)):
        collected.update(_parameters(base, base_tree))
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if ast.unparse(statement.annotation).startswith(("ClassVar", "typing.ClassVar")):
                continue
            name = statement.target.id
            default = REQUIRED if statement.value is None else _literal(statement.value)
            collected[name] = Parameter(name, _type(statement.annotation, tree), default)
    return collected


def _keyword_only(init: ast.FunctionDef, tree: ast.Module) -> dict[str, Parameter]:
    if init.args.kwarg or init.args.vararg:
        raise _Unreadable
    found = {}
    for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        if argument.annotation is None:
            raise _Unreadable
        value = REQUIRED if default is None else _literal(default)
        found[argument.arg] = Parameter(argument.arg, _type(argument.annotation, tree), value)
    return found


def _constants(node: ast.ClassDef) -> dict[str, Any]:
    found = {}
    for statement in node.body:
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.value is not None
        ):
            name, value = statement.target.id, statement.value
        elif (
            isinstance(statement, ast.Assign)
            and len(statement.targets) == 1
            and isinstance(statement.targets[0], ast.Name)
        ):
            name, value = statement.targets[0].id, statement.value
        else:
            continue
        if name in _CONSTANTS:
            found[name] = _literal(value)
    return found


def _inherited_constants(node: ast.ClassDef, tree: ast.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base, base_tree in reversed(_bases(node, tree)):
        found.update(_inherited_constants(base, base_tree))
        found.update(_constants(base))
    return found


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError) as error:
        raise _Unreadable from error


def _type(node: ast.expr, tree: ast.Module) -> Any:
    """The runtime type of a plain annotation: names, unions, Literal[...] and tuple[...] of those."""
    if isinstance(node, ast.Constant):
        if node.value is None:
            return None
        if isinstance(node.value, str):
            return _type(ast.parse(node.value, mode="eval").body, tree)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return typing.Union[_type(node.left, tree), _type(node.right, tree)]  # noqa: UP007 — built at run time
    if isinstance(node, ast.Subscript):
        head = ast.unparse(node.value).rpartition(".")[2]
        if head == "Literal":
            values = ast.literal_eval(node.slice)
            return Literal[values if isinstance(values, tuple) else (values,)]
        if head == "tuple":
            items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            inner = [
                ...
                if isinstance(item, ast.Constant) and item.value is Ellipsis
                else _type(item, tree)
                for item in items
            ]
            return tuple[tuple(inner)]  # type: ignore[misc]
    if isinstance(node, ast.Name):
        if node.id in _PLAIN:
            return _PLAIN[node.id]
        return _alias(node.id, tree)
    raise _Unreadable


def _alias(name: str, tree: ast.Module) -> Any:
    """A module-level `Name = Literal[...]`, here or in the module it is imported from."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in statement.targets
        ):
            return _type(statement.value, tree)
    origin = _imported(tree, name)
    if origin is None:
        raise _Unreadable
    other, _ = _parse(origin[0])
    return _alias(origin[1], other)


def _inspect(value: Any) -> ClassFacts:
    """The same facts from the imported object."""
    if not isinstance(value, type):
        return ClassFacts(inspect.getdoc(value) or "", {})
    hints = typing.get_type_hints(value.__init__)  # type: ignore[misc]
    parameters = {
        name: Parameter(name, hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(value).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    constants = {name: getattr(value, name) for name in _CONSTANTS if hasattr(value, name)}
    return ClassFacts(inspect.getdoc(value) or "", parameters, constants)


def describe_type(annotation: Any) -> str:
    """A type as people write it: `int | 'budget'`."""
    if annotation is None or annotation is types.NoneType:
        return "none"
    if typing.get_origin(annotation) is Literal:
        return " | ".join(repr(value) for value in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join(describe_type(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        return (
            "["
            + ", ".join(
                "…" if part is ... else describe_type(part) for part in typing.get_args(annotation)
            )
            + "]"
        )
    return getattr(annotation, "__name__", str(annotation))
