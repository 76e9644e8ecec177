"""Datasets that can be used, by name: those of this package and of installed plug-ins."""

from collections.abc import Callable

from contextbench.data import DATASETS, Source, plugged_dataset
from contextbench.system import plugins
from contextbench.system.plugins import Known


def known_datasets() -> Known[Callable[..., Source]]:
    """What makes the source of each: all of this package and of entry points, loaded."""
    return plugins.known(plugins.DATASETS, DATASETS, plugged_dataset)
