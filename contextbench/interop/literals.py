"""Configurations of other code bases, which are Python: read, never run.

What is read are assignments of literals, of `dict(...)` with such, and of names assigned before.
Anything else (a call, an operator, an import) is `UNREADABLE` where it stands, so that the rest of
the text still counts.
"""

import ast
from collections.abc import Mapping
from typing import Any, Final

LONGEST_TEXT = 2**20  # characters; published configurations have some ten thousand


class Unreadable:
    """In place of a value that only running code would show."""

    def __repr__(self) -> str:
        return "a value that only running code would show"


UNREADABLE: Final = Unreadable()


class LiteralsError(ValueError):
    """A text that is no configuration. The message says why."""


def read_assignments(text: str) -> dict[str, Any]:
    """Top-level names and their values. Raises `LiteralsError` for what is not Python."""
    if len(text) > LONGEST_TEXT:
        raise LiteralsError(f"{len(text)} characters are more than {LONGEST_TEXT}")
    values: dict[str, Any] = {}
    try:
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Assign):
                for target in statement.targets:
                    if isinstance(target, ast.Name):
                        values[target.id] = _value(statement.value, values)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise LiteralsError(str(error).partition("\n")[0] or type(error).__name__) from error
    return values


def read_literal(text: str) -> Any:
    """One value as it is written in Python. Raises `LiteralsError` for anything but a literal."""
    try:
        return ast.literal_eval(text.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError) as error:
        raise LiteralsError(f"{text!r} is no literal") from error


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return names.get(node.id, UNREADABLE)
        case ast.List():
            return [_value(each, names) for each in node.elts]
        case ast.Tuple():
            return tuple(_value(each, names) for each in node.elts)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Dict():
            return _mapping([(k and _value(k, names), v) for k, v in _items(node)], names)
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            return _mapping([(each.arg, each.value) for each in node.keywords], names)
    return UNREADABLE


def _items(node: ast.Dict) -> list[tuple[ast.expr | None, ast.expr]]:
    return list(zip(node.keys, node.values, strict=True))


def _mapping(items: list[tuple[Any, ast.expr]], names: Mapping[str, Any]) -> Any:
    """Keys that are no text or number, `**others` among them, make the whole unreadable."""
    if not all(isinstance(key, str | int) for key, _ in items):
        return UNREADABLE
    return {key: _value(each, names) for key, each in items}
