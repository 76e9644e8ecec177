"""Datasets by name, and where their files are looked for."""

import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from contextbench.data.base import IGNORE, DataError, LabelSet, Sample, SegmentationDataset
from contextbench.data.camvid import CamVid
from contextbench.data.probe import ContextProbe

__all__ = [
    "DATASETS",
    "IGNORE",
    "DataError",
    "LabelSet",
    "Sample",
    "SegmentationDataset",
    "build_dataset",
]

DATA_ROOT_VARIABLE = "CONTEXTBENCH_DATA"


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
    `config.root`. The first two may be the dataset's folder or the folder above it.
    """
    if config.name not in DATASETS:
        raise DataError(f"unknown dataset {_choice(config.name, DATASETS)}")
    return DATASETS[config.name](config, split, data_root)


def dataset_folder(config: DatasetOptions, data_root: Path | None) -> Path:
    """Where the files of a dataset on disk are, by the precedence of `build_dataset`."""
    folder = Path(config.root or config.name)
    if data_root is None and os.environ.get(DATA_ROOT_VARIABLE):
        data_root = Path(os.environ[DATA_ROOT_VARIABLE])
    if data_root is None:
        return folder
    inside = data_root / folder.name
    return inside if inside.is_dir() else data_root


def _probe(config: DatasetOptions, split: str, data_root: Path | None) -> SegmentationDataset:  # noqa: ARG001
    """Options: train_images, eval_images, size (an int or [height, width]), seed."""
    defaults = {"train_images": 4096, "eval_images": 128, "size": 192, "seed": 0}
    options = {**defaults, **_known(config, tuple(defaults))}
    length = _whole(options, "train_images" if split == "train" else "eval_images")
    seed = _whole(options, "seed")
    return ContextProbe(length=length, size=_height_width(options["size"]), seed=seed, split=split)


def _camvid(config: DatasetOptions, split: str, data_root: Path | None) -> SegmentationDataset:
    """No options."""
    _known(config, ())
    return CamVid(dataset_folder(config, data_root), split)


def _whole(options: Mapping[str, Any], name: str) -> int:
    value = options[name]
    if type(value) is not int:  # True is an int too
        raise DataError(f"dataset probe: {name} {value!r} must be a whole number")
    return value


def _height_width(size: Any) -> tuple[int, int]:
    sides = [size, size] if type(size) is int else size
    if isinstance(sides, list | tuple) and [type(side) for side in sides] == [int, int]:
        return sides[0], sides[1]
    raise DataError(f"dataset probe: size {size!r} must be a whole number or [height, width]")


def _known(config: DatasetOptions, allowed: tuple[str, ...]) -> Mapping[str, Any]:
    for option in config.options:
        if option not in allowed:
            raise DataError(f"dataset {config.name}: unknown option {_choice(option, allowed)}")
    return config.options


def _choice(given: str, allowed: Mapping[str, object] | tuple[str, ...]) -> str:
    nearest = difflib.get_close_matches(given, list(allowed), n=1)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    return f"{given!r}{hint}; allowed are {', '.join(allowed) or 'none'}"


DATASETS: dict[str, Callable[[DatasetOptions, str, Path | None], SegmentationDataset]] = {
    "probe": _probe,
    "camvid": _camvid,
}
