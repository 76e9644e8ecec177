"""What a run predicts of images, as files: one by one, whatever single ones of them are."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.files import ConfigError
from contextbench.data.ahead import iterating, read_ahead
from contextbench.data.base import DataError, Picture
from contextbench.data.chosen import chosen_pictures
from contextbench.evaluation.files import (
    Format,
    Overlays,
    PredictionFolder,
    Submitted,
    written_here,
)
from contextbench.evaluation.prediction import Predictor
from contextbench.records.failures import Failure
from contextbench.records.runs import CHECKPOINT, RunRecord
from contextbench.runs.trained import (
    Changes,
    finished_record,
    open_run,
    predictor_of,
    seen_config,
    source_of,
)
from contextbench.runs.views import settings_of
from contextbench.system.files import digest_of
from contextbench.training.execution import Execution
from contextbench.training.failures import enough_room, is_out_of_memory


@dataclass(frozen=True)
class Wanted:
    """What is to be written, and how. `batch` images of one size go through the model at once."""

    submission: bool = False
    confidence: bool = False
    view: str | None = None
    changes: Changes = field(default_factory=Changes)
    batch: int = 1
    fresh: bool = False


class Predicted(NamedTuple):
    """The files of one image, and whether they were there already; or why there are none."""

    image: str  # its path, or its name in a split
    paths: list[Path]
    kept: bool = False
    failure: Failure | None = None


def predict_files(
    folder: Path,
    images: Sequence[str | Path],
    out: Path,
    execution: Execution,
    *,
    split: str | None = None,
    wanted: Wanted = Wanted(),
) -> list[Predicted]:
    """Write what a run predicts of files, folders and patterns, or of `split` of its dataset.

    For each image `NAME_mask.png` (train ids), `NAME_colour.png` and `NAME_overlay.png`, and with
    `confidence` `NAME_confidence.png`; for a submission the one file that the dataset's benchmark
    reads. Files in `out` from the same weights, settings and pixels stay; from others they are
    refused, or replaced if `fresh`.
    Raises, before anything is written, `ConfigError` for names of nothing, `DataError` for a split
    that does not exist or a dataset without submission format, `RecordError` for a run that has no
    model, `OutputError` for files in the way. An image that cannot be read, or not be predicted, is
    reported, and the others go on.
    """
    record = finished_record(folder)
    form = _format(folder, record, wanted, execution)
    pictures = _pictures(folder, record, images, split, out, execution)
    _, protocol, model = open_run(folder, execution)
    config = wanted.changes.applied_to(seen_config(record, protocol, wanted.view))
    predictor = predictor_of(record, model, config, execution.device)
    predictor.check_labels()
    target = PredictionFolder(out, form, _origin(folder, record, config, form))
    target.check(pictures, replace=wanted.fresh)
    label = f"predict {split or 'images'} with {record.head_name} seed {record.seed}"
    done: list[Predicted] = []
    with execution.reporter.task(label, len(pictures)) as update:
        work = _Work(predictor, target, wanted, execution)
        for each in work.predicted(pictures):
            if each.failure is not None:
                execution.reporter.say(f"failed: {each.failure.message}")
            done.append(each)
            update(len(done), "")
    return done


def _pictures(
    folder: Path,
    record: RunRecord,
    images: Sequence[str | Path],
    split: str | None,
    out: Path,
    execution: Execution,
) -> list[Picture]:
    if split is not None:
        return source_of(folder, record, execution).images(split)
    target = out.resolve()

    def is_output(path: Path) -> bool:  # of an earlier call with --out in the folder of the images
        return path.resolve().is_relative_to(target) and written_here(path)

    return chosen_pictures(images, is_output)


def _format(folder: Path, record: RunRecord, wanted: Wanted, execution: Execution) -> Format:
    """Raises `DataError` where the dataset has no submission format."""
    if not wanted.submission:
        return Overlays(tuple(record.labels.palette), wanted.confidence)
    if wanted.confidence:
        raise ConfigError("--submission writes what a server reads, which is no --confidence")
    facts = source_of(folder, record, execution).facts
    if facts.submission is None:
        raise DataError(
            f"{facts.name} has no submission format: no server or toolkit takes predictions of "
            "it. Leave --submission out to write masks of train ids"
        )
    return Submitted(facts.submission)


def _origin(folder: Path, record: RunRecord, config: EvaluateConfig, form: Format) -> str:
    """A word that is the same for the same weights, settings and format, wherever they lie."""
    weights = digest_of(folder / CHECKPOINT)
    facts = [weights, record.precision, settings_of(config.measured), repr(form)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class _Read(NamedTuple):
    """A picture that was read, and whether its prediction is there already; or why it was not."""

    image: Tensor | None  # (3, H, W)
    kept: bool = False
    error: DataError | None = None


@dataclass(frozen=True)
class _Reading:
    """Pictures by index."""

    pictures: Sequence[Picture]
    target: PredictionFolder

    def __getitem__(self, index: int) -> _Read:
        picture = self.pictures[index]
        try:
            image = picture.read()
        except DataError as error:
            return _Read(None, error=error)
        return _Read(image, self.target.holds(picture.name, image))


@dataclass(frozen=True)
class _Work:
    """Pictures on their way to files."""

    predictor: Predictor
    target: PredictionFolder
    wanted: Wanted
    execution: Execution

    def predicted(self, pictures: Sequence[Picture]) -> Iterator[Predicted]:
        """Each picture when it is done; of a batch, all together."""
        workers, everything = self.execution.workers, range(len(pictures))
        coming = read_ahead(_Reading(pictures, self.target), everything, workers)
        with enough_room(workers), iterating(coming) as read:
            yield from self._each(zip(pictures, read, strict=True))

    def _each(self, pictures: Iterable[tuple[Picture, "_Read"]]) -> Iterator[Predicted]:
        batch: dict[Picture, Tensor] = {}
        for picture, (image, kept, error) in pictures:
            self.execution.stop.check()
            if image is None:
                assert error is not None
                yield _failed(picture, error)
                continue
            if kept:
                yield Predicted(picture.place, self.target.paths(picture.name), kept=True)
                continue
            if batch and next(iter(batch.values())).shape != image.shape:
                yield from self._written(batch)
                batch = {}
            batch[picture] = image
            if len(batch) == self.wanted.batch:
                yield from self._written(batch)
                batch = {}
        if batch:
            yield from self._written(batch)

    def _written(self, batch: dict[Picture, Tensor]) -> Iterator[Predicted]:
        """Those of one size; where they fail together, each by itself."""
        try:
            images = torch.stack(list(batch.values()))
            labels, confidence = self._labels(images)
        except (FloatingPointError, RuntimeError, MemoryError) as error:
            if not isinstance(error, FloatingPointError) and not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                yield _failed(next(iter(batch)), error)
                return
        else:
            for row, (picture, image) in enumerate(batch.items()):
                likely = None if confidence is None else confidence[row].numpy()
                self.target.write(picture.name, image, labels[row].numpy(), likely)
                yield Predicted(picture.place, self.target.paths(picture.name))
            return
        for picture, image in batch.items():
            yield from self._written({picture: image})

    def _labels(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """On the CPU, with what is asked for of their confidence."""
        if not self.wanted.confidence:
            return self.predictor.labels(images).cpu(), None
        found = self.predictor.confident(images)
        return found.labels.cpu(), found.confidence.cpu()


def _failed(picture: Picture, error: Exception) -> Predicted:
    """Named by its path, which errors of reading have already."""
    if is_out_of_memory(error):
        text = "memory does not suffice for it: in windows it takes less, as with --window 512x512"
        error = DataError(f"{picture.place}: {text}")
    elif not isinstance(error, DataError):
        error = DataError(f"{picture.place}: {error}")
    return Predicted(picture.place, [], failure=Failure.of(error))
