"""Datasets that can be used, by name: those of this package and of installed plug-ins."""

from collections.abc import Callable
from typing import NamedTuple

from contextbench.data import DATASETS, Source, plugged_dataset
from contextbench.system import plugins
from contextbench.system.plugins import PluginError


class Known(NamedTuple):
    """What makes the source of each, and what is wrong with those that cannot be used."""

    makers: dict[str, Callable[..., Source]]
    faults: dict[str, str]


def known_datasets() -> Known:
    """All of this package and of entry points, loaded; a faulty one is told, the others go on."""
    makers, faults = dict(DATASETS), {}
    for name in plugins.installed(plugins.DATASETS):
        try:
            place = plugins.entry_place(plugins.DATASETS, name, DATASETS)
            assert place is not None
            makers[name] = plugged_dataset(place)
        except PluginError as error:
            faults[name] = str(error)
    return Known(makers, faults)
