"""Heads by name: registered ones, those of installed packages, and any class by its place.

A class that is named as `package.module:Class` is called `Class` in folders and tables, one that is
installed as its entry point is. No name has two meanings: a clash is refused, naming both.
"""

from collections.abc import Sequence

from contextbench.config.files import ConfigError, names_in, nearest
from contextbench.config.heads import HeadConfig, known_names, load_head, place_of
from contextbench.system import plugins
from contextbench.system.plugins import Known, PluginError
from contextbench.system.reading import given
from heads import HEADS, ContextHead

OWN = frozenset({*HEADS, *names_in("heads")})


def known_heads() -> Known[type[ContextHead]]:
    """All that `known_names` names, loaded."""
    return plugins.known(plugins.HEADS, HEADS, _class_at, OWN)


def named_head(name: str) -> HeadConfig:
    """A head by name, place or file, with the code that a plug-in is. Raises `UserError`s."""
    if ":" in name and not name.endswith((".yaml", ".yml")):
        plugins.check_place(name)
    plugins.entry_place(plugins.HEADS, name, OWN)  # refuses a name of two meanings
    return identified(load_head(name, known_names()))


def named_heads(names: Sequence[str]) -> list[HeadConfig]:
    """As `named_head`. Raises `ConfigError` for two that would have one name in tables."""
    found: dict[str, str] = {}
    heads = [named_head(name) for name in names]
    for name, head in zip(names, heads, strict=True):
        other = found.setdefault(head.name, name)
        if other != name:
            raise ConfigError(
                f"{other} and {name} are both called {head.name!r} in folders and tables: give "
                f"one of them a file of another name, NAME.yaml with the line 'head: {head.head}'"
            )
    return heads


def identified(config: HeadConfig) -> HeadConfig:
    """`config`, which the user gives, with the code that its head is if that is a plug-in."""
    place = place_of(config.head)
    if place is None:
        return config
    _refuse_clash(config.name, place)
    found = plugins.named(plugins.HEADS, place)
    _class_at(place)
    return config.model_copy(update={"plugin": found})


def _refuse_clash(name: str, place: str) -> None:
    """Raise `PluginError` where a class would be called as another head is."""
    other = "contextbench's own" if name in OWN else plugins.entry_place(plugins.HEADS, name)
    if other not in (None, place):
        raise PluginError(
            f"{place} would be called {name!r} in folders and tables, as {other} head is: give it "
            f"a file of another name, NAME.yaml with the line 'head: {place}'"
        )


def head_class(config: HeadConfig) -> type[ContextHead]:
    """What `config` configures; of a plug-in the code that was there when it was named.

    Places are imported if `named_head` or `recorded_head` let them be. Raises `PluginError` for
    other code, as another machine may have it.
    """
    if config.head in HEADS:
        return HEADS[config.head]
    if config.plugin is not None:
        plugins.check_same(plugins.HEADS, config.plugin, f"head {config.name}")
        return _class_at(config.plugin.place)
    place = plugins.entry_place(plugins.HEADS, config.head, OWN)
    if place is None:
        raise PluginError(
            f"unknown head {given(config.head)}; {nearest(config.head, known_names())}"
        )
    return _class_at(place)


def _class_at(place: str) -> type[ContextHead]:
    """Raises `PluginError` for what is no class, and no head."""
    found = plugins.loaded(place)
    if not isinstance(found, type):
        raise PluginError(f"{place} is a {type(found).__name__}, not a class")
    if not issubclass(found, ContextHead):
        raise PluginError(f"{place} is not a head: it does not derive from heads.ContextHead")
    return found
