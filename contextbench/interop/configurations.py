"""A part of a configuration of which every key has to be accounted for."""

from collections.abc import Collection, Mapping
from typing import Any

from contextbench.interop.facts import Facts, plain, written
from contextbench.interop.files import ImportedError
from contextbench.interop.literals import UNREADABLE


class Part:
    """One dictionary of a configuration, or none (`known` is false): then all is UNREADABLE.

    Keys are taken with the default that they have in the code base, and what is left over in the
    end is refused: it may change the function.
    """

    def __init__(self, where: str, values: Any) -> None:
        self.where = where
        self.known = isinstance(values, Mapping)
        self._values: dict[str, Any] = dict(values) if isinstance(values, Mapping) else {}

    def take(self, key: str, default: Any = None) -> Any:
        """The value, its default where the key is absent, UNREADABLE where nothing is known."""
        if not self.known:
            return UNREADABLE
        return plain(self._values.pop(key, default))

    def part(self, key: str) -> "Part":
        """A dictionary in this one."""
        return Part(f"{self.where}.{key}", self.take(key))

    def fact(self, facts: Facts, name: str, key: str, default: Any, usual: Any) -> Any:
        """`key` as a fact: asked for as `name` where it is not known."""
        return facts.of(name, self.take(key, default), usual)

    def need(self, key: str, allowed: Collection[Any], default: Any = None) -> None:
        """Raises `ImportedError` for a value that makes another function than any here."""
        value = self.take(key, default)
        if value is not UNREADABLE and value not in allowed:
            listed = " or ".join(dict.fromkeys(written(each) for each in allowed))
            raise ImportedError(
                f"import: {self.where}.{key} is {written(value)}: only {listed} can be taken over"
            )

    def refuse_rest(self, harmless: Collection[str]) -> None:
        """Raises `ImportedError` for keys that were not taken, except those that do not matter."""
        rest = [key for key in self._values if key not in harmless]
        if rest:
            raise ImportedError(
                f"import: {self.where} has {', '.join(rest)}, and what that changes is not known "
                "here"
            )
