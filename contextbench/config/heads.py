"""A head's file: its options and loss weights, and nothing else."""

from collections.abc import Iterable
from typing import Any

from contextbench.config.files import (
    ConfigError,
    Named,
    find_config,
    names_in,
    nearest,
    read_mapping,
    refuse_stated,
    validated,
)
from contextbench.config.frozen import Plugged, Weight
from contextbench.system import plugins
from contextbench.system.reading import given


class HeadConfig(Plugged, Named):
    """One row of a comparison: a head with its options.

    `name` is the file's stem and labels the row; `loss_weights` override the published ones. `head`
    is a registered name, that of an entry point, or `package.module:Class`; of the latter two
    `plugin` says which code it is. No file states it: it is found out where the head is named.
    """

    head: str
    options: dict[str, Any] = {}
    loss_weights: dict[str, Weight] = {}


def known_names() -> list[str]:
    """Of registered heads, each of which has a shipped file, and of entry points. No torch."""
    return list(dict.fromkeys([*names_in("heads"), *plugins.installed(plugins.HEADS)]))


def place_of(head: str) -> str | None:
    """Of a class that is installed or named by its place; None for a registered head. No torch.

    Raises `PluginError` for what is none of them, and for a name of two meanings.
    """
    registered = names_in("heads")
    place = plugins.entry_place(plugins.HEADS, head, registered)
    if head in registered or place is not None:
        return place
    if plugins.is_place(head):
        return head
    raise plugins.PluginError(f"unknown head {given(head)}; {nearest(head, known_names())}")


def load_head(name: str, known: Iterable[str]) -> HeadConfig:
    """Read a head's file by name or path; without a file a head has its default options.

    `known` are the registered names and those of entry points; a file may also have the place of
    any class, `package.module:Class`. Raises `ConfigError` as `load_protocol` does.
    """
    heads = set(known)
    if plugins.is_place(name):
        return validated(HeadConfig, {"name": plugins.name_of(name), "head": name}, name)
    if name in heads and name not in names_in("heads"):
        return HeadConfig(name=name, head=name)
    path = find_config(name, "heads", extra=heads)
    content = read_mapping(path)
    refuse_stated(HeadConfig, content, str(path))
    config = validated(HeadConfig, {"name": path.stem, **content}, str(path))
    if config.head not in heads and not plugins.is_place(config.head):
        raise ConfigError(f"{path}: head {config.head!r} is unknown; {nearest(config.head, heads)}")
    return config
