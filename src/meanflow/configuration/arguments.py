"""Checks values against the constructors that take them, before anything is built.

A constructor that is called with a value of another type fails somewhere inside, with a message that does not name the
key. The checks here name the key, the value and the type.
"""

from __future__ import annotations

import inspect
import pydoc
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    Path: "a path",
}
SCALARS = (bool, int, float, str)


class Argument(NamedTuple):
    """An argument of a constructor.

    Attributes:
        annotation: Its type; ``object`` if it has none.
        default: Its default; ``inspect.Parameter.empty`` if it has none.
    """

    annotation: object
    default: object


def require_arguments(tree: Mapping[str, object], groups: Callable[[str], list[str]] = lambda key: []) -> None:
    """Check the values of every node with a ``_target_`` against the arguments of that target.

    Args:
        tree: Nested plain values, as Hydra instantiates them.
        groups: Returns the options of the configuration group of that name, which a key may have to be chosen from.

    Raises:
        ValueError: If a value is of another type than its argument, or a target has no argument of that name.
    """
    for key, node in _nodes(tree, ""):
        target = str(node["_target_"])
        arguments = constructor_arguments(target)
        if arguments is None:
            continue
        for name, value in node.items():
            path = f"{key}.{name}" if key else name
            if name.startswith("_"):
                continue
            if name not in arguments:
                taken = ", ".join(arguments)
                raise ValueError(f"{path} is no argument of {target.rpartition('.')[2]}, which takes {taken}")
            annotation = arguments[name].annotation
            if not accepts(annotation, value) and not (value is None and arguments[name].default is None):
                if isinstance(value, str) and (names := groups(name)):
                    raise ValueError(
                        f"{path}={value} is no value but a choice: {name}@{path}=NAME with NAME one of "
                        f"{', '.join(names)}"
                    )
                raise ValueError(f"{path} must be {description(annotation)}, got {value!r}")


def constructor_default(constructor: str | Callable[..., object], name: str) -> object:
    """Return the default of an argument; ``None`` if there is no such argument or it has no default."""
    argument = (constructor_arguments(constructor) or {}).get(name)
    return None if argument is None or argument.default is inspect.Parameter.empty else argument.default


def constructor_arguments(target: str | Callable[..., object]) -> dict[str, Argument] | None:
    """Return the arguments of a class or function by name; ``None`` if they are not known.

    Arguments that a class hands on to its base class (``**arguments``) are those of the base class.

    Args:
        target: A class, a function, or a class method that returns an object of its class; or the dotted path of one.
    """
    try:
        found = pydoc.locate(target) if isinstance(target, str) else target
    except pydoc.ErrorDuringImport:  # building it will say why
        return None
    if not callable(found):
        return None
    constructors = [found] if not inspect.isclass(found) else []
    owner = found if inspect.isclass(found) else getattr(found, "__self__", None)
    if inspect.isclass(owner):
        constructors += [cls.__dict__["__init__"] for cls in owner.__mro__ if "__init__" in cls.__dict__]
    arguments: dict[str, Argument] = {}
    for constructor in constructors:
        try:
            parameters = inspect.signature(constructor).parameters.values()
        except (TypeError, ValueError):
            return None
        hints = _hints(constructor)
        for parameter in parameters:
            if parameter.name != "self" and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                argument = Argument(hints.get(parameter.name, object), parameter.default)
                arguments.setdefault(parameter.name, argument)
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            return arguments
    return None


def accepts(annotation: object, value: object) -> bool:
    """Return whether an argument of a type takes a plain value; in doubt it does."""
    origin, members = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(accepts(member, value) for member in members)
    if origin is Literal:
        return value in members
    cls = origin or annotation
    if isinstance(value, Mapping) or not isinstance(cls, type) or getattr(cls, "_is_protocol", False):
        return True
    if value is None or cls is type(None):
        return value is None and cls in (type(None), object)
    if cls is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if cls is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if issubclass(cls, Path):
        return isinstance(value, str)
    if isinstance(value, SCALARS):
        return isinstance(value, cls)
    return cls not in SCALARS  # a list


def description(annotation: object) -> str:
    """Return the values that a type allows, in words."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(description(member) for member in members))
    if origin is Literal:
        return f"one of {', '.join(map(str, members))}"
    cls = origin or annotation
    if cls in NAMES:
        return NAMES[cls]
    if isinstance(cls, type) and issubclass(cls, Mapping):
        return "a mapping"
    if isinstance(cls, type) and any(base.__name__ in ("Sequence", "list", "tuple") for base in cls.__mro__):
        return "a list"
    return f"a {getattr(cls, '__name__', cls)}"


def _nodes(tree: object, key: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    if isinstance(tree, Mapping):
        if "_target_" in tree:
            yield key, tree
        for name, branch in tree.items():
            yield from _nodes(branch, f"{key}.{name}" if key else str(name))


def _hints(function: Callable[..., object]) -> dict[str, object]:
    try:
        return get_type_hints(function)
    except (NameError, AttributeError, TypeError):  # a name for type checkers alone: the argument counts as untyped
        return {}
