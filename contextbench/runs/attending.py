"""What a pixel of one image attends to in trained runs, from their folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.files import nearest
from contextbench.config.protocols import DatasetConfig
from contextbench.data import DataError, build_dataset
from contextbench.data.pictures import read_image
from contextbench.evaluation.attention import AttentionError, attention_maps, predicted_class
from contextbench.records.attention import AttentionMap, cell_box, no_attention, sums_to_one
from contextbench.records.examples import ByteArray
from contextbench.records.runs import RunRecord, read_run
from contextbench.records.settings import recorded_protocol
from contextbench.records.stored import RecordError
from contextbench.runs.trained import open_run, seen_config, stored_dataset, usable_dataset
from contextbench.training.execution import Execution

TOP = 3  # parts of a vector that are named


@dataclass(frozen=True)
class Sight:
    """One run's view of the pixel."""

    run: Path
    head: str  # with the seed where another run has the same head
    predicted: str  # class of the pixel at the image's size, in one scale
    size: tuple[int, int]  # (H, W) of the image
    maps: list[AttentionMap]
    settings: list[str]  # how this differs from the run's evaluation, as sentences

    @property
    def notes(self) -> list[str]:
        """What a reader should know, as sentences."""
        return [*no_attention(self.maps), *self.settings]

    @property
    def cells(self) -> tuple[int, int]:
        """(h, w) of the feature map."""
        height, width = self.maps[0].values.shape
        return height, width

    def top(self) -> dict[str, dict[str, float]]:
        """The largest parts of each vector of weights: kind -> label -> weight."""
        vectors = [each for each in self.maps if each.values.ndim == 1]
        return {
            each.kind: {
                each.labels[part]: float(each.values[part])
                for part in np.argsort(-each.values, kind="stable")[:TOP]
            }
            for each in vectors
            if sums_to_one(each.values)
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON; maps by their maximum and sum, since files hold the values."""
        first = self.maps[0]
        return {
            "run": str(self.run),
            "head": self.head,
            "image": first.image,
            "pixel": list(first.pixel),
            "cell": list(first.cell),
            "cells": list(self.cells),
            "box": list(cell_box(first.cell, self.size, self.cells)),
            "predicted": self.predicted,
            "class": first.labels[0],
            "top": self.top(),
            "maps": {
                each.kind: {
                    "labels": list(each.labels) if each.values.ndim == 2 else len(each.labels),
                    "maximum": float(each.values.max()),
                    "sum": float(each.values.sum()),
                }
                for each in self.maps
            },
            "notes": self.notes,
        }


@dataclass(frozen=True)
class Scene:
    """One image with the views of all runs."""

    image_name: str
    image: ByteArray  # (H, W, 3)
    sights: list[Sight]


def attend(
    folders: Sequence[Path],
    image: str,
    pixel: tuple[int, int],
    execution: Execution,
    *,
    class_name: str | None = None,
    view: str | None = None,
) -> Scene:
    """What `pixel` (y, x) of an image attends to in the runs of these folders, in their order.

    `image` is as `find_image` takes it, with the dataset of the first run. The influence is on the
    logit of `class_name`, else on that of the class each run predicts. What differs from the
    evaluation is told of `view`, the first unless named; images are of its split unless told.
    Raises `UserError`s for what is not there, and `RecordError` for runs that do not have the same
    classes.
    """
    records = [read_run(_record(folder)) for folder in folders]
    classes = _shared_classes(folders, records)
    target = train_id(class_name, classes)
    found = stored_dataset if Path(image).is_file() else usable_dataset
    dataset = found(folders[0], records[0])
    split = _seen(folders[0], records[0], view).split
    dataset = dataset.model_copy(update={"evaluate": split or dataset.evaluate})
    name, pixels = find_image(image, dataset, execution.data_root)
    sights = []
    for folder, label in zip(folders, run_labels(folders, records), strict=True):
        execution.stop.check()
        try:
            sights.append(_sight(folder, label, name, pixels, pixel, execution, target, view))
        except DataError as error:
            raise AttentionError(f"{folder}: {error}") from error
    return Scene(name, pixels.permute(1, 2, 0).numpy(), sights)


def train_id(class_name: str | None, classes: Sequence[str]) -> int | None:
    """Of a class by its name; None stays. Raises `AttentionError` for a class there is not."""
    if class_name is None:
        return None
    if class_name not in classes:
        raise AttentionError(f"unknown class {class_name!r}: {nearest(class_name, classes)}")
    return classes.index(class_name)


def find_image(text: str, config: DatasetConfig, data_root: Path | None) -> tuple[str, Tensor]:
    """Name and pixels (3, H, W) uint8 of a file, or of an image of a dataset.

    The latter as `3` or `val:3`, a position in a split, counted from 0, or as a name, `val:NAME`;
    the split is the one that `config` evaluates on unless given. Raises `DataError`.
    """
    if Path(text).is_file():
        return Path(text).name, read_image(Path(text))
    split, _, wanted = text.rpartition(":")
    split = split or config.evaluate
    try:
        dataset = build_dataset(config, split, data_root)
    except DataError as error:
        raise DataError(
            f"image {text!r} is no file, and no image of the dataset: {error}"
        ) from error
    if wanted.isdecimal() and int(wanted) < len(dataset):
        sample = dataset[int(wanted)]
        return sample.name, sample.image
    for index in range(len(dataset)):
        sample = dataset[index]
        if sample.name == wanted:
            return sample.name, sample.image
    raise DataError(
        f"image {text!r} is no file, and no image of split {split!r} of {config.name}: allowed are "
        f"positions 0 to {len(dataset) - 1} and names like {dataset[0].name!r}"
    )


def run_labels(folders: Sequence[Path], records: Sequence[RunRecord]) -> list[str]:
    """The shortest of head, head and seed, and folder that tells the runs apart."""
    choices = (
        [record.head_name for record in records],
        [f"{record.head_name} seed {record.seed}" for record in records],
        [str(folder) for folder in folders],
    )
    for labels in choices:
        if len(set(labels)) == len(labels):
            return labels
    raise AttentionError(f"a run is given twice: {', '.join(choices[-1])}")


def _record(folder: Path) -> Path:
    path = folder / "record.json"
    if not path.exists():
        raise RecordError(f"{folder} is not the folder of a run: it has no record.json")
    return path


def _shared_classes(folders: Sequence[Path], records: Sequence[RunRecord]) -> list[str]:
    first = records[0].labels.classes
    for folder, record in zip(folders, records, strict=True):
        if record.labels.classes != first:
            raise RecordError(
                f"{folder} has other classes than {folders[0]}: only runs on the same classes can "
                "be compared"
            )
    return first


def _sight(
    folder: Path,
    label: str,
    image_name: str,
    image: Tensor,
    pixel: tuple[int, int],
    execution: Execution,
    target: int | None,
    view: str | None,
) -> Sight:
    record, protocol, model = open_run(folder, execution)
    classes = record.labels.classes
    predicted = predicted_class(model, image, pixel, image_name=image_name)
    maps = attention_maps(
        model,
        image,
        pixel,
        head_name=label,
        image_name=image_name,
        classes=classes,
        target=predicted if target is None else target,
    )
    size = (image.shape[-2], image.shape[-1])
    settings = _settings(seen_config(record, protocol, view))
    return Sight(folder, label, classes[predicted], size, maps, settings)


def _seen(folder: Path, record: RunRecord, view: str | None) -> EvaluateConfig:
    return seen_config(record, recorded_protocol(record, str(folder)), view)


def _settings(config: EvaluateConfig) -> list[str]:
    usual = EvaluateConfig().model_dump(mode="json")
    given = config.scoring.measured.model_dump(mode="json").items()
    others = [f"{n} {value}" for n, value in given if value != usual[n] and n != "split"]
    if not others:
        return []
    return [
        f"The run's evaluation has {', '.join(others)}; this is the whole image, once, as it is."
    ]
