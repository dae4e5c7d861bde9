"""What a class declares about itself, read from its source.

That is: its docstring, its parameters, and the class attributes that its contract declares
(`version`, `presets`, `ranges` and so on; see the classes of `bench.api`). Plans and listings must
not import torch, and parameters are declared once, in the class's own signature: the keyword-only
arguments of `__init__`, or else the annotated fields of a dataclass, base classes included. Where
the source cannot tell (a computed default, a base without source), the class is imported instead.
"""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from bench.plugins.sources import (
    CONTRACTS,
    ClassSource,
    ModuleSource,
    Unreadable,
    find_class,
    find_definition,
    read_module,
)

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


@dataclass(frozen=True)
class Parameter:
    """One keyword-only parameter.

    Attributes:
        name: as written in a plan.
        annotation: its type, as at run time.
        default: its default, `REQUIRED` if there is none.
    """

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
        doc: the whole docstring, cleaned.
        parameters: by name, in order of declaration.
        constants: class attributes by name: those that the class's contract declares, with the
            contract's default where the class says nothing; without a contract, all literal ones.
        source: the file it was read from, None if it had to be imported.
    """

    doc: str
    parameters: Mapping[str, Parameter]
    constants: Mapping[str, Any] = field(default_factory=dict)
    source: Path | None = None

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, in one line."""
        return " ".join(self.doc.split("\n\n", 1)[0].split())

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Preset name -> its parameters."""
        found = self.constants.get("presets", {})
        return found if isinstance(found, Mapping) else {}


def read_class(module: str, name: str, fallback: Callable[[], Any]) -> ClassFacts:
    """The facts about `module:name`.

    Args:
        module: dotted name.
        name: of the class, which the module may re-export; "" reads the module itself.
        fallback: imports and returns the class, used when the source does not tell.

    Raises:
        Exception: whatever `fallback` raises.
    """
    try:
        source = read_module(module)
        if not name:
            return ClassFacts(ast.get_docstring(source.tree) or "", {}, source=source.path)
        found = find_class(source, name)
        return ClassFacts(
            ast.get_docstring(found.node) or "",
            _parameters(found) or {},
            _constants(found),
            found.module.path,
        )
    except Unreadable:
        return _inspect(fallback())


def _parameters(source: ClassSource) -> dict[str, Parameter] | None:
    """The constructor's parameters; None where neither the class nor its bases say any."""
    for statement in source.node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _keyword_only(statement, source.module)
    if source.is_dataclass:
        return _fields(source)
    return next((found for base in source.bases if (found := _parameters(base)) is not None), None)


def _fields(source: ClassSource) -> dict[str, Parameter]:
    """The fields of a dataclass and of its base classes."""
    found: dict[str, Parameter] = {}
    for base in reversed(source.bases):
        found.update(_fields(base))
    if not source.is_dataclass:
        return found
    for statement in source.node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if _is_class_variable(statement):
                continue
            name = statement.target.id
            default = REQUIRED if statement.value is None else _literal(statement.value)
            found[name] = Parameter(name, _type(statement.annotation, source.module), default)
    return found


def _is_class_variable(statement: ast.AnnAssign) -> bool:
    return ast.unparse(statement.annotation).startswith(("ClassVar", "typing.ClassVar"))


def _keyword_only(init: ast.FunctionDef, module: ModuleSource) -> dict[str, Parameter]:
    if init.args.kwarg or init.args.vararg:
        raise Unreadable
    found = {}
    for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        if argument.annotation is None:
            raise Unreadable
        value = REQUIRED if default is None else _literal(default)
        found[argument.arg] = Parameter(argument.arg, _type(argument.annotation, module), value)
    return found


def _constants(source: ClassSource) -> dict[str, Any]:
    """The class attributes that the contract declares, the contract's own values first."""
    declared, undeclared = _declared(source)
    found = dict(declared)
    for name, node in _assigned(source).items():
        if name in declared:
            found[name] = _literal(node)
        elif name in undeclared or not (declared or undeclared):
            try:
                found[name] = _literal(node)
            except Unreadable:
                continue
    return found


def _declared(source: ClassSource) -> tuple[dict[str, Any], set[str]]:
    """What the contract declares: names with literal defaults, and names without a default."""
    values: dict[str, Any] = {}
    names: set[str] = set()
    for base in reversed(source.bases):
        inner_values, inner_names = _declared(base)
        values, names = values | inner_values, names | inner_names
    if source.is_contract:
        for statement in source.node.body:
            if not isinstance(statement, ast.AnnAssign) or not isinstance(
                statement.target, ast.Name
            ):
                continue
            if statement.value is None:
                names.add(statement.target.id)
                continue
            try:
                values[statement.target.id] = _literal(statement.value)
            except Unreadable:
                continue
    return values, names


def _assigned(source: ClassSource) -> dict[str, ast.expr]:
    """Class attributes and their expressions, those of base classes first; contracts left out."""
    found: dict[str, ast.expr] = {}
    for base in reversed(source.bases):
        found.update(_assigned(base))
    if source.is_contract:
        return found
    for statement in source.node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if statement.value is not None:
                found[statement.target.id] = statement.value
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = statement.value
    return found


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError) as error:
        raise Unreadable from error


def _type(node: ast.expr, module: ModuleSource) -> Any:
    """The runtime type of an annotation: names, unions, Literal[...] and tuple[...] of those."""
    if isinstance(node, ast.Constant):
        if node.value is None:
            return None
        if isinstance(node.value, str):
            return _type(ast.parse(node.value, mode="eval").body, module)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        left, right = _type(node.left, module), _type(node.right, module)
        return typing.Union[left, right]  # noqa: UP007 - built at run time
    if isinstance(node, ast.Subscript):
        head = ast.unparse(node.value).rpartition(".")[2]
        if head == "Literal":
            values = ast.literal_eval(node.slice)
            return Literal[values if isinstance(values, tuple) else (values,)]
        if head == "tuple":
            items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            inner: Any = tuple(
                ...
                if isinstance(item, ast.Constant) and item.value is Ellipsis
                else _type(item, module)
                for item in items
            )
            return types.GenericAlias(tuple, inner)
    if isinstance(node, ast.Name):
        if node.id in _PLAIN:
            return _PLAIN[node.id]
        home, statement = find_definition(module, node.id)
        if isinstance(statement, ast.Assign):
            return _type(statement.value, home)
    raise Unreadable


def _inspect(value: Any) -> ClassFacts:
    """The same facts from the imported object."""
    if not isinstance(value, type):
        return ClassFacts(inspect.getdoc(value) or "", {})
    init = inspect.getattr_static(value, "__init__")
    # A dataclass's own __init__ names types of its bases, which its module need not know.
    settings = vars(value).get("__dataclass_params__")
    generated = settings is not None and settings.init
    hints = typing.get_type_hints(value if generated else init)
    parameters = {
        name: Parameter(name, hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(value).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    declared: set[str] = set()
    for base in value.__mro__:
        if base.__module__.startswith(CONTRACTS):
            values, names = _declared(find_class(read_module(base.__module__), base.__name__))
            declared |= values.keys() | names
    if declared:
        constants = {name: getattr(value, name) for name in declared if hasattr(value, name)}
    else:
        constants = {
            name: held
            for name, held in inspect.getmembers(value)
            if isinstance(held, (bool, int, float, str, tuple, Mapping)) and name[0] != "_"
        }
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
