"""Using a trained run: its model, and the settings it is evaluated with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.files import read_mapping, validated
from contextbench.config.overrides import all_overridden
from contextbench.config.protocols import DatasetConfig, Protocol, unknown_view
from contextbench.data import LabelSet, Source, dataset_source
from contextbench.evaluation.batches import WindowBatches
from contextbench.evaluation.prediction import Predictor
from contextbench.measure.fitting import fitting
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter
from contextbench.records.runs import RunRecord, read_run
from contextbench.records.settings import recorded_head, recorded_protocol
from contextbench.records.stored import RecordError
from contextbench.runs.weights import load_trained
from contextbench.system.plugins import DATASETS, check_available
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
    settings: Sequence[str] | None = None  # key=value, of any setting of a view

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
        content = all_overridden(
            {**config.model_dump(mode="json"), **given},
            [each.removeprefix("evaluate.") for each in self.settings or ()],
        )
        applied = validated(EvaluateConfig, content, "evaluation options")
        if not sliding or self.stride is not None or applied.window is None:
            return applied
        # Neighbouring windows overlap by a third unless told otherwise.
        height, width = (-(-2 * side // 3) for side in applied.window)
        return applied.model_copy(update={"stride": (height, width)})


def predictor_of(
    record: RunRecord,
    model: Segmenter,
    config: EvaluateConfig,
    device: torch.device,
    batches: WindowBatches | None = None,
) -> Predictor:
    """How a run predicts, its number format and its mirrored classes, with the given settings.

    `batches` are those of an earlier predictor of the same model.
    """
    precision = stored_precision(record)
    batches = batches or WindowBatches(fitting(device, precision))
    return Predictor([model], device, precision, config, _mirrored(record), batches)


@contextmanager
def finite(name: str) -> Iterator[None]:
    """`RecordError` in place of the error of logits that are not finite, with the image's name."""
    try:
        yield
    except FloatingPointError as error:
        raise RecordError(f"{name}: {error}") from error


def source_of(folder: Path, record: RunRecord, execution: Execution) -> Source:
    """The dataset of a run. Raises `RecordError` where its classes are others by now."""
    source = dataset_source(usable_dataset(folder, record), execution.data_root)
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


def usable_dataset(folder: Path, record: RunRecord) -> DatasetConfig:
    """As `stored_dataset`. Raises `PluginError` where it is of code that is not here."""
    config = stored_dataset(folder, record)
    if config.plugin is not None:
        check_available(DATASETS, config.plugin, str(folder))
    return config


def _mirrored(record: RunRecord) -> tuple[int, ...]:
    labels = record.labels
    return LabelSet(tuple(labels.classes), tuple(labels.palette), swap=tuple(labels.swap)).mirrored
