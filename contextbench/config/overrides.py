"""Values of a file of settings that are changed one by one: `key.key=value`."""

from collections.abc import Mapping, Sequence
from typing import Any

from contextbench.config.files import ConfigError
from contextbench.config.safe_yaml import parse_yaml
from contextbench.system.reading import given, why


def all_overridden(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        content = _overridden(content, override)
    return content


def _overridden(content: Mapping[str, Any], override: str) -> dict[str, Any]:
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise ConfigError(f"--set {given(override)}: write it as key.key=value")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(
            f"--set {given(override)}: the value is not YAML: {why(error)}"
        ) from error
    return with_value(content, dotted.split("."), value, f"--set {given(override)}")


def with_value(
    content: Mapping[str, Any], keys: Sequence[str], value: Any, source: str
) -> dict[str, Any]:
    """`content` with a nested key set.

    Raises `ConfigError`, beginning with `source`, for a key below a value.
    """
    first, *rest = keys
    if not rest:
        return {**content, first: value}
    inner = {} if content.get(first) is None else content[first]  # null: a group that is not set
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{source}: {first!r} holds a value, not keys")
    return {**content, first: with_value(inner, rest, value, source)}
