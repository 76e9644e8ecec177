"""Using a trained run: its model, the settings it is evaluated with, masks of new images."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.files import read_mapping, validated
from contextbench.config.protocols import DatasetConfig, Protocol, unknown_view
from contextbench.data import LabelSet, Source, dataset_source
from contextbench.data.base import DataError, Picture
from contextbench.data.pictures import read_image
from contextbench.evaluation.files import Format, Overlays, PredictionFolder, Submitted
from contextbench.evaluation.prediction import Predictor
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter
from contextbench.records.runs import RunRecord, read_run
from contextbench.records.settings import recorded_head, recorded_protocol
from contextbench.records.stored import RecordError
from contextbench.runs.views import settings_of
from contextbench.runs.weights import load_trained
from contextbench.training.execution import Execution


def open_run(folder: Path, execution: Execution) -> tuple[RunRecord, Protocol, Segmenter]:
    """The record, the protocol and the trained model of a run folder.

    Raises `RecordError` for a folder that is no finished run, `CheckpointError` for its weights.
    """
    record = finished_record(folder)
    return record, recorded_protocol(record, str(folder)), _model(folder, record, execution)


def finished_record(folder: Path) -> RunRecord:
    """The record of a run folder. Raises `RecordError` where it is not that of a finished run."""
    path = folder / "record.json"
    if not path.exists():
        raise RecordError(f"{folder} is not the folder of a run: it has no record.json")
    record = read_run(path)
    if record.status != "done":
        raise RecordError(f"{folder}: this run is recorded as {record.status}, it has no model")
    return record


def _model(folder: Path, record: RunRecord, execution: Execution) -> Segmenter:
    return load_trained(
        folder,
        recorded_protocol(record, str(folder)),
        recorded_head(record, str(folder)),
        len(record.labels.classes),
        stored_precision(record),
        execution.device,
    )


def stored_precision(record: RunRecord) -> Precision:
    """The number format and layout that a run was trained and evaluated in."""
    known = {field.name for field in fields(Precision)}
    return Precision(**{key: each for key, each in record.precision.items() if key in known})  # type: ignore[arg-type]


def seen_config(record: RunRecord, protocol: Protocol, view: str | None) -> EvaluateConfig:
    """Settings of a view that a run was evaluated in, or its protocol has; None: the first.

    Raises `ConfigError` for a view that is neither.
    """
    if view is None or (view in protocol.evaluate and view not in record.views):
        return protocol.view(view)
    if view not in record.views:
        known = {**protocol.evaluate, **record.views}
        raise unknown_view(view, known, f"{record.head_name}, seed {record.seed},")
    found = record.views[view]
    split = None if found.split == protocol.dataset.evaluate else found.split
    return validated(EvaluateConfig, {**found.settings, "split": split}, f"view {view}")


@dataclass(frozen=True)
class Changes:
    """What an evaluation changes of a view's settings; None leaves it."""

    scales: Sequence[float] | None = None
    flip: bool | None = None
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return any(getattr(self, field.name) is not None for field in fields(self))

    def applied_to(self, config: EvaluateConfig) -> EvaluateConfig:
        """`config` with the changes. Raises `ConfigError` where they do not fit together."""
        changes: dict[str, Any] = {"scales": self.scales, "flip": self.flip}
        sliding = self.window is not None or self.stride is not None
        if sliding:
            window = config.window if self.window is None else self.window
            stride = window if self.stride is None else self.stride
            changes.update(mode="slide", window=window, stride=stride)
        given = {name: value for name, value in changes.items() if value is not None}
        applied = validated(EvaluateConfig, {**config.model_dump(), **given}, "evaluation options")
        if not sliding or self.stride is not None or applied.window is None:
            return applied
        # Neighbouring windows overlap by a third unless told otherwise.
        height, width = (-(-2 * side // 3) for side in applied.window)
        return applied.model_copy(update={"stride": (height, width)})


class Predicted(NamedTuple):
    """The files of one image, and whether they were there already."""

    paths: list[Path]
    kept: bool


def predict_files(
    folder: Path,
    images: Sequence[Path],
    out: Path,
    execution: Execution,
    *,
    split: str | None = None,
    submission: bool = False,
    view: str | None = None,
    changes: Changes = Changes(),
    fresh: bool = False,
) -> list[Predicted]:
    """Write what a run predicts of image files, or of `split` of its dataset, labels or not.

    For each image `STEM_mask.png` (train ids), `STEM_colour.png` and `STEM_overlay.png`; with
    `submission` the one file that the dataset's benchmark reads. Files in `out` from the same
    weights, settings and pixels stay; from others they are refused, or replaced if `fresh`.
    Raises, before anything is written, `DataError` for a split that does not exist or a dataset
    without submission format, `RecordError` for a run that has no model, `OutputError` for files
    in the way; and `DataError` for a file that is no image and for a model that cannot do without
    labels.
    """
    record = finished_record(folder)
    protocol = recorded_protocol(record, str(folder))
    if split is None:
        pictures = [Picture(path.stem, partial(read_image, path)) for path in images]
    else:
        pictures = source_of(folder, record, execution).images(split)
    form = _submitted(folder, record, execution) if submission else _overlays(record)
    config = changes.applied_to(seen_config(record, protocol, view))
    predictor = predictor_of(record, _model(folder, record, execution), config, execution.device)
    target = PredictionFolder(out, form, _origin(folder, record, config, form))
    target.check([picture.name for picture in pictures], replace=fresh)
    done = []
    label = f"predict {split or 'images'} with {record.head_name} seed {record.seed}"
    with execution.reporter.task(label, len(pictures)) as update:
        for number, picture in enumerate(pictures, 1):
            execution.stop.check()
            kept = _predict(picture, predictor, target)
            done.append(Predicted(target.paths(picture.name), kept))
            update(number, "")
    return done


def _predict(picture: Picture, predictor: Predictor, target: PredictionFolder) -> bool:
    """Write what is missing of one image; whether nothing was."""
    image = picture.read()  # (3, H, W)
    if target.holds(picture.name, image):
        return True
    with finite(picture.name):
        prediction = predictor(image, (image.shape[-2], image.shape[-1]))
    target.write(picture.name, image, prediction.cpu().numpy())
    return False


def predictor_of(
    record: RunRecord, model: Segmenter, config: EvaluateConfig, device: torch.device
) -> Predictor:
    """How a run predicts, its number format and its mirrored classes, with the given settings."""
    return Predictor([model], device, stored_precision(record), config, _mirrored(record))


@contextmanager
def finite(name: str) -> Iterator[None]:
    """`RecordError` in place of the error of logits that are not finite, with the image's name."""
    try:
        yield
    except FloatingPointError as error:
        raise RecordError(f"{name}: {error}") from error


def _origin(folder: Path, record: RunRecord, config: EvaluateConfig, form: Format) -> str:
    """A word that is the same for the same weights, settings and format, wherever they lie."""
    with (folder / "checkpoint.safetensors").open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    facts = [weights, record.precision, settings_of(config), repr(form)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def source_of(folder: Path, record: RunRecord, execution: Execution) -> Source:
    """The dataset of a run. Raises `RecordError` where its classes are others by now."""
    source = dataset_source(stored_dataset(folder, record), execution.data_root)
    now = source.facts.labels.classes
    if list(now) != record.labels.classes:
        raise RecordError(
            f"{folder}: was trained on the classes {', '.join(record.labels.classes)}; those of "
            f"{source.facts.name} are now {', '.join(now)}"
        )
    return source


def stored_dataset(folder: Path, record: RunRecord) -> DatasetConfig:
    """As recorded. Records know no places on disk, but the configuration beside them does."""
    config = recorded_protocol(record, str(folder)).dataset
    path = folder / "config.yaml"
    if not path.is_file():
        return config
    stored = validated(Protocol, read_mapping(path).get("protocol", {}), str(path))
    return config.model_copy(update={"root": stored.dataset.root})


def _submitted(folder: Path, record: RunRecord, execution: Execution) -> Submitted:
    """Raises `DataError` where the dataset has no submission format."""
    facts = source_of(folder, record, execution).facts
    if facts.submission is None:
        raise DataError(
            f"{facts.name} has no submission format: no server or toolkit takes predictions of "
            "it. Leave --submission out to write masks of train ids"
        )
    return Submitted(facts.submission)


def _overlays(record: RunRecord) -> Overlays:
    return Overlays(tuple(record.labels.palette))


def _mirrored(record: RunRecord) -> tuple[int, ...]:
    labels = record.labels
    return LabelSet(tuple(labels.classes), tuple(labels.palette), swap=tuple(labels.swap)).mirrored
