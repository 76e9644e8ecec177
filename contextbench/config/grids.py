"""A grid of settings that every head is tried with: `--grid KEY=VALUE,VALUE`. No torch.

Keys are those of `train` of a protocol and of `options` and `loss_weights` of a head's file; the
rest of a protocol is what heads share. `--grid HEAD,HEAD:KEY=...` is for some heads alone.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextbench.config.files import ConfigError, nearest, validated
from contextbench.config.heads import HeadConfig
from contextbench.config.overrides import with_value
from contextbench.config.protocols import Protocol
from contextbench.config.safe_yaml import parse_yaml
from contextbench.system.naming import checked_name
from contextbench.system.reading import given, why

RECIPE, OPTIONS, WEIGHTS = "train.", "head.options.", "head.loss_weights."
KINDS = (f"{RECIPE}KEY", f"{OPTIONS}KEY", f"{WEIGHTS}KEY")
SHARED = ("train.watch", "train.init")  # what heads are watched on and start from
MOST_POINTS = 10_000
DIGITS = 8  # of a digest in the name of a folder


@dataclass(frozen=True)
class Axis:
    """Values that one key is given in turn."""

    key: str  # dotted
    values: tuple[Any, ...]
    heads: tuple[str, ...] = ()  # that it is for; (): all

    def __str__(self) -> str:
        """As it was given, but for spaces."""
        values = ",".join(map(value_text, self.values))
        return f"{','.join(self.heads)}{':' if self.heads else ''}{self.key}={values}"


@dataclass(frozen=True)
class Point:
    """One head with one choice of values: what a trial runs with."""

    values: Mapping[str, Any]  # dotted key -> value, as it was understood
    protocol: Protocol
    head: HeadConfig

    @property
    def name(self) -> str:
        """For a folder, the same for all heads that are given these values."""
        return _folder_name(self.values)


def read_axis(text: str) -> Axis:
    """`KEY=VALUE,VALUE` or `HEAD,HEAD:KEY=...`; values are YAML. Raises `ConfigError`."""
    key, separator, values = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(
            f"--grid {given(text)}: write it as KEY=VALUE,VALUE, like train.lr=0.01,0.1"
        )
    try:
        return axis_of(key, parse_yaml(f"[{values}\n]"))
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--grid {given(text)}: the values are not YAML: {why(error)}") from None


def axis_of(key: str, values: Sequence[Any]) -> Axis:
    """Values of `KEY` or `HEAD,HEAD:KEY`. Raises `ConfigError` for none, and for other keys."""
    heads, _, dotted = key.rpartition(":")
    axis = Axis(
        dotted.strip(), tuple(values), tuple(n.strip() for n in heads.split(",") if n.strip())
    )
    if not axis.values:
        raise ConfigError(f"--grid {axis}: has no values; write them with commas")
    _check_key(axis)
    return axis


def grid_points(
    axes: Sequence[Axis], protocol: Protocol, heads: Sequence[HeadConfig]
) -> dict[str, list[Point]]:
    """Head -> its points, the last axis varying fastest; as many for each head.

    Raises `ConfigError` for an empty grid, one that a head has more points of than another, keys
    and heads that occur twice or do not exist, values that a protocol or a head's file refuses, and
    values that are the same.
    """
    _check_axes(axes, [head.name for head in heads])
    points = {head.name: list(_points(axes, protocol, head)) for head in heads}
    numbers = {name: len(found) for name, found in points.items()}
    if len(set(numbers.values())) > 1:
        listed = ", ".join(f"{name} {number}" for name, number in numbers.items())
        raise ConfigError(
            f"--grid: every head gets as many trials, but these grids have {listed}: give axes of "
            "some heads alone as many values for each head"
        )
    if max(numbers.values()) < 2:
        raise ConfigError("--grid: one trial is no choice; an axis needs two values or more")
    return points


def value_text(value: Any) -> str:
    """A value as it can be given again: YAML on one line."""
    plain = isinstance(value, str) and value.isprintable() and not set(value) & set(" ,:[]{}#'\"")
    return str(value) if plain else json.dumps(value)


def values_text(values: Mapping[str, Any]) -> str:
    """`key=value, key=value`."""
    return ", ".join(f"{key}={value_text(value)}" for key, value in values.items())


def with_values(
    protocol: Protocol, head: HeadConfig, values: Mapping[str, Any], source: str
) -> tuple[Protocol, HeadConfig]:
    """Both with dotted keys of a grid set. Raises `ConfigError`, beginning with `source`."""
    settings, options = protocol.model_dump(mode="json"), head.model_dump(mode="json")
    for key, value in values.items():
        if key.startswith(RECIPE):
            settings = with_value(settings, key.split("."), value, source)
        else:
            options = with_value(options, key.split(".")[1:], value, source)
    return validated(Protocol, settings, source), validated(HeadConfig, options, source)


def _check_key(axis: Axis) -> None:
    key = axis.key
    known = any(
        key.startswith(kind) and len(key) > len(kind) for kind in (RECIPE, OPTIONS, WEIGHTS)
    )
    if known and not f"{key}.".startswith(tuple(f"{each}." for each in SHARED)):
        return
    name = key.removeprefix("head.")
    hint = f"did you mean {OPTIONS}{name}? " if name != key else ""
    if key.partition(".")[0] not in ("train", "head"):
        hint = "heads of one table share everything but how they are trained; "
    raise ConfigError(
        f"--grid {axis}: cannot tune {given(key)}; {hint}allowed: {', '.join(KINDS)}, "
        f"but for {' and '.join(SHARED)}"
    )


def _check_axes(axes: Sequence[Axis], heads: Sequence[str]) -> None:
    if not axes:
        raise ConfigError("--grid is missing: what to try, like --grid train.lr=0.003,0.01,0.03")
    for axis in axes:
        for name in axis.heads:
            if name not in heads:
                raise ConfigError(
                    f"--grid {axis}: {given(name)} is not tuned; {nearest(name, heads)}"
                )
    for one, other in itertools.combinations(axes, 2):
        shared = not one.heads or not other.heads or set(one.heads) & set(other.heads)
        first, second = f"{one.key}.", f"{other.key}."
        if shared and (first.startswith(second) or second.startswith(first)):
            raise ConfigError(f"--grid {axis_pair(one, other)}: a key is given twice for one head")


def axis_pair(one: Axis, other: Axis) -> str:
    """Two axes, for a message."""
    return f"{one} and {other}"


def _points(axes: Sequence[Axis], protocol: Protocol, head: HeadConfig) -> Iterator[Point]:
    own = [axis for axis in axes if not axis.heads or head.name in axis.heads]
    number = 1
    for axis in own:
        number *= len(axis.values)
    if number > MOST_POINTS:
        raise ConfigError(f"--grid: {number} trials of {head.name}; at most {MOST_POINTS}")
    found: dict[str, str] = {}
    for chosen in itertools.product(*(axis.values for axis in own)):
        asked = dict(zip((axis.key for axis in own), chosen, strict=True))
        source = f"--grid {values_text(asked)}"
        settings, options = with_values(protocol, head, asked, f"{source}, head {head.name}")
        values = dict(_understood(asked, settings, options))
        same = json.dumps(values, sort_keys=True)
        if same in found:
            raise ConfigError(
                f"--grid: {head.name} has the same trial twice: {values_text(values)}"
            )
        found[same] = source
        yield Point(values, settings, options)


def _understood(
    asked: Iterable[str], protocol: Protocol, head: HeadConfig
) -> Iterator[tuple[str, Any]]:
    """What a key holds after it was set: 0.01 for 1e-2."""
    for key in asked:
        content: Any = {
            "train": protocol.train.model_dump(mode="json"),
            "head": head.model_dump(mode="json"),
        }
        for part in key.split("."):
            content = content[part]
        yield key, content


def _folder_name(values: Mapping[str, Any]) -> str:
    """All values where that can be the name of a folder, else the beginning and a digest."""
    name = "+".join(
        f"{key.removeprefix(RECIPE)}={value_text(value)}" for key, value in values.items()
    )
    name = name.replace(" ", "")
    try:
        return checked_name(name)
    except ValueError:
        digest = hashlib.sha256(json.dumps(dict(values)).encode()).hexdigest()[:DIGITS]
        kept = "".join(
            c if c.isascii() and c.isprintable() and c not in "/\\" else "-" for c in name
        )
        return f"{kept[:100]}-{digest}"
