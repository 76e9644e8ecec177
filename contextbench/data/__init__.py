"""Datasets by name, and where their files are looked for."""

import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from contextbench.data.ade20k import ADE20K
from contextbench.data.base import (
    IGNORE,
    DataError,
    Facts,
    LabelSet,
    Sample,
    SegmentationDataset,
    Source,
)
from contextbench.data.camvid import CamVid
from contextbench.data.cityscapes import Cityscapes
from contextbench.data.coco_stuff import COCOStuff
from contextbench.data.folder import FolderDataset
from contextbench.data.lip import LIP
from contextbench.data.pascal_context import PascalContext
from contextbench.data.probe import ProbeSource
from contextbench.data.submission import Submission
from contextbench.data.voc import VOC
from contextbench.system import plugins
from contextbench.system.errors import UserError

__all__ = [
    "DATASETS",
    "IGNORE",
    "DataError",
    "Facts",
    "LabelSet",
    "Sample",
    "SegmentationDataset",
    "Source",
    "Submission",
    "build_dataset",
    "dataset_source",
]

DATA_ROOT_VARIABLE = "CONTEXTBENCH_DATA"

# Name -> what makes the source from the dataset's folder, as an entry point does; its keyword-only
# parameters are the options that a protocol file may set.
DATASETS: dict[str, Callable[..., Source]] = {
    "probe": ProbeSource,
    "camvid": CamVid,
    "cityscapes": Cityscapes,
    "ade20k": ADE20K,
    "voc": VOC,
    "pascal_context": PascalContext,
    "coco_stuff": COCOStuff,
    "lip": LIP,
    "folder": FolderDataset,
}


class DatasetOptions(Protocol):
    """The part of a protocol file that describes the dataset."""

    @property
    def name(self) -> str: ...
    @property
    def root(self) -> str | None: ...
    @property
    def options(self) -> Mapping[str, Any]: ...


def build_dataset(
    config: DatasetOptions, split: str, data_root: Path | None
) -> SegmentationDataset:
    """The split `split` of the dataset that `config` names; `DataError` where that is impossible.

    Files are looked for in `data_root`, else in the folder that `CONTEXTBENCH_DATA` names, else in
    `config.root`. The first two may be the dataset's folder or the folder above it. `~` and
    variables such as `$HOME` are expanded in all of them.
    """
    return dataset_source(config, data_root).open(split)


def dataset_source(config: DatasetOptions, data_root: Path | None = None) -> Source:
    """The dataset that `config` names, its folder as in `build_dataset`, nothing opened yet.

    Classes, splits and the submission format are in `.facts`, whether the data are there or not;
    only `folder` reads its description. Raises `DataError` for an unknown name or option.
    """
    make = _maker(config)
    allowed = option_names(make)
    for option in config.options:
        if option not in allowed:
            raise DataError(f"dataset {config.name}: unknown option {_choice(option, allowed)}")
    folder = dataset_folder(config, data_root)
    if config.name in DATASETS:
        return make(folder, **config.options)
    return _of_others(config.name, make, folder, config.options)


def _maker(config: DatasetOptions) -> Callable[..., Source]:
    """Raises `DataError` for an unknown name, `PluginError` for code that cannot be used."""
    place = plugins.entry_place(plugins.DATASETS, config.name, DATASETS)
    if config.name in DATASETS:
        return DATASETS[config.name]
    plugin = getattr(config, "plugin", None)
    if plugin is not None:
        plugins.check_same(plugins.DATASETS, plugin, f"dataset {config.name}")
        place = plugin.place
    if place is None:
        raise DataError(f"unknown dataset {_choice(config.name, dataset_names())}")
    return plugged_dataset(place)


def dataset_names() -> list[str]:
    """Of this package and of entry points, none of which is loaded."""
    return list(dict.fromkeys([*DATASETS, *plugins.installed(plugins.DATASETS)]))


def plugged_dataset(place: str) -> Callable[..., Source]:
    """What makes the source of a plug-in. Raises `PluginError` for what cannot be called."""
    found = plugins.loaded(place)
    if not callable(found):
        raise plugins.PluginError(f"{place} is a {type(found).__name__}: no class, no function")
    return found


def _of_others(
    name: str, make: Callable[..., Source], folder: Path, options: Mapping[str, Any]
) -> Source:
    """Raises `DataError` for what raises, and for what is no source."""
    try:
        source = make(folder, **options)
    except UserError:
        raise
    except Exception as error:
        raise DataError(
            f"dataset {name}: making it raises {type(error).__name__}: {error}"
        ) from error
    lacking = [part for part in ("facts", "open", "images") if not hasattr(source, part)]
    if lacking:
        raise DataError(f"dataset {name}: a {type(source).__name__} has no {', '.join(lacking)}")
    return source


def option_names(make: Callable[..., Source]) -> list[str]:
    """Options of an entry of `DATASETS`."""
    parameters = inspect.signature(make).parameters.values()
    return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]


def dataset_folder(config: DatasetOptions, data_root: Path | None) -> Path:
    """Where the files of a dataset on disk are, by the precedence of `build_dataset`."""
    folder = _expanded(config.root or config.name.rpartition(":")[2])
    if data_root is None and os.environ.get(DATA_ROOT_VARIABLE):
        data_root = Path(os.environ[DATA_ROOT_VARIABLE])
    if data_root is None:
        return folder
    data_root = _expanded(data_root)
    inside = data_root / folder.name
    return inside if inside.is_dir() else data_root


def _expanded(path: str | Path) -> Path:
    """With home folders and variables in place; what is unknown stays and is then not found."""
    return Path(os.path.expandvars(os.path.expanduser(path)))  # noqa: PTH111, keeps an unknown ~name


def _choice(given: str, allowed: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(given, list(allowed), n=1)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    return f"{given!r}{hint}; allowed are {', '.join(allowed) or 'none'}"
