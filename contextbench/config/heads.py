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
    validated,
)
from contextbench.config.frozen import Weight


class HeadConfig(Named):
    """One row of a comparison: a registered head with its options.

    `name` is the file's stem and labels the row; `loss_weights` override the published ones.
    """

    head: str
    options: dict[str, Any] = {}
    loss_weights: dict[str, Weight] = {}


def load_head(name: str, known: Iterable[str]) -> HeadConfig:
    """Read a head's file by name or path; a registered head without a file has default options.

    `known` are the registered names. Raises `ConfigError` as `load_protocol` does.
    """
    heads = set(known)
    if name in heads and name not in names_in("heads"):
        return HeadConfig(name=name, head=name)
    path = find_config(name, "heads", extra=heads)
    config = validated(HeadConfig, {"name": path.stem, **read_mapping(path)}, str(path))
    if config.head not in heads:
        raise ConfigError(f"{path}: head {config.head!r} is unknown; {nearest(config.head, heads)}")
    return config
