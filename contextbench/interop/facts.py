"""What decides about a function without showing in any tensor: read, given or asked for.

A dilation, for example, changes what a network computes and no shape. A fact comes from the
configuration in the file; else from the option `--fact`; else, with `--usual`, it is what published
configurations of that code base have. Otherwise it is asked for, all that lack at once.
"""

from collections.abc import Mapping
from typing import Any

from contextbench.config.files import ConfigError, nearest
from contextbench.interop.literals import UNREADABLE, LiteralsError, read_literal


class Facts:
    """Facts by name. `stated` are those of the file, `assumed` those taken for usual."""

    def __init__(self, given: Mapping[str, str] | None = None, *, usual: bool = False) -> None:
        self.given = {name: _parsed(name, text) for name, text in (given or {}).items()}
        self.usual = usual
        self.stated: dict[str, Any] = {}
        self.assumed: dict[str, Any] = {}
        self._lacking: dict[str, Any] = {}

    def of(self, name: str, stated: Any, usual: Any) -> Any:
        """The fact `name`, `stated` by the file or UNREADABLE; of the kind of `usual`.

        Raises `ConfigError` for a given value that contradicts the file or is of another kind.
        """
        stated = plain(stated)
        given = self.given.get(name, UNREADABLE)
        if given is not UNREADABLE and not _same_kind(given, usual):
            raise ConfigError(
                f"--fact {name}={written(given)}: expected something like {written(usual)}"
            )
        if stated is not UNREADABLE:
            if given not in (UNREADABLE, stated):
                raise ConfigError(
                    f"--fact {name}={written(given)}: the file itself says {written(stated)}"
                )
            self.stated[name] = stated
            return stated
        if given is not UNREADABLE:
            self.stated[name] = given
            return given
        self.assumed[name] = usual
        if not self.usual:
            self._lacking[name] = usual
        return usual

    def check(self) -> None:
        """Raises `ConfigError` naming all facts that lack, and given ones that nobody asks for."""
        if self._lacking:
            listed = ", ".join(f"{name} ({written(v)})" for name, v in self._lacking.items())
            options = " ".join(f"--fact {name}={written(v)}" for name, v in self._lacking.items())
            raise ConfigError(
                "no tensor shows these, and the file has no configuration that says them; in "
                f"parentheses what published configurations have: {listed}. Give what it was "
                f"trained with, as in {options}, or take all of these with --usual"
            )
        known = {**self.stated, **self.assumed}
        for name in self.given:
            if name not in known:
                raise ConfigError(f"--fact {name}: nothing depends on it; {nearest(name, known)}")


def plain(value: Any) -> Any:
    """Lists as tuples, so that values of files and of options are equal."""
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def written(value: Any) -> str:
    """As an option takes it: `12,24,36`, `true`, `8`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(written, value))
    return str(value)


def _parsed(name: str, text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if not name or not text:
        raise ConfigError(f"--fact {name}={text}: write NAME=VALUE, like output_stride=8")
    try:
        return plain(read_literal(text))
    except LiteralsError:
        return text


def _same_kind(given: Any, usual: Any) -> bool:
    """Of tuples the members; an int is no bool, and a float may be written as one."""
    if isinstance(usual, tuple) and isinstance(given, tuple):
        return bool(given) and all(_same_kind(each, usual[0]) for each in given)
    return type(given) is type(usual) or (type(given) is int and type(usual) is float)
