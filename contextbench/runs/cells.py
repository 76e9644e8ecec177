"""Cells, one head with one seed under one protocol each: their folders, locks and records."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from contextbench.config.differences import NOT_SET, differences
from contextbench.config.files import ConfigError, nearest
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol, weights_file
from contextbench.data import LabelSet, SegmentationDataset, build_dataset, dataset_source
from contextbench.data.part import Part
from contextbench.data.sizes import ImageSizes, check_crops, image_sizes
from contextbench.evaluation.batches import WindowBatches
from contextbench.evaluation.prediction import Predictor
from contextbench.measure.fitting import fitting
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter
from contextbench.records.runs import (
    CHECKPOINT,
    MisplacedError,
    RunRecord,
    cell_folder,
    existing_run,
)
from contextbench.records.tuning import Tuned
from contextbench.runs.watching import watched_part
from contextbench.system.files import clear_leftovers, digest_of
from contextbench.system.locks import exclusive
from contextbench.system.reading import given
from contextbench.training.execution import Execution
from contextbench.training.resume import NAME as RESUME
from contextbench.training.resume import (
    NOT_COMPARED as UNCOMPARED,
)
from contextbench.training.resume import (
    DamagedError,
    named_differences,
    read_state,
    refuse_other,
    saved_progress,
)


class WeightsFileError(ConfigError):
    """A file of weights that a protocol names cannot be read. The message names key and file."""


@dataclass(frozen=True)
class Setting:
    """What all cells of a comparison share, opened once."""

    protocol: Protocol
    train_set: SegmentationDataset
    evaluated: Mapping[str, SegmentationDataset]  # split -> its images, for all views
    weights_digest: str | None = None  # of the file that `backbone.weights` names
    watched: Part | None = None  # what trainings are watched on
    init_digest: str | None = None  # of the weights that `train.init` names
    tuned: Mapping[str, Tuned] = field(default_factory=dict)  # head -> what it was chosen from

    @property
    def labels(self) -> LabelSet:
        return self.train_set.labels

    @property
    def num_classes(self) -> int:
        return len(self.labels.classes)

    @property
    def evaluate_set(self) -> SegmentationDataset:
        """What the first view is evaluated on."""
        return self.seen_set(None)

    def seen_set(self, view: str | None) -> SegmentationDataset:
        """What a view is evaluated on."""
        return self.evaluated[self.protocol.split(view)]

    @cached_property
    def dataset_fingerprint(self) -> str:
        return self.seen_data(None)

    def seen_data(self, view: str | None) -> str:
        """Fingerprint of the training split and a view's."""
        train, evaluated = self._fingerprints
        watched = ""
        if self.watched is not None and self.protocol.train.keep == "best":
            watched = f"/{self.watched.whole.fingerprint()}"  # which decides about the weights
        return f"{train}/{evaluated[self.protocol.split(view)]}{watched}"

    @cached_property
    def _fingerprints(self) -> tuple[str, dict[str, str]]:
        """Of the training split and, by name, of those that are evaluated."""
        evaluated = {name: each.fingerprint() for name, each in self.evaluated.items()}
        return self.train_set.fingerprint(), evaluated

    @cached_property
    def fingerprint(self) -> str:
        """Of the training and the first view."""
        return self.view_fingerprint(None)

    def view_fingerprint(self, view: str | None) -> str:
        return self.protocol.fingerprint(
            self.seen_data(view), self.weights_digest, view, init_digest=self.init_digest
        )

    @cached_property
    def sizes(self) -> ImageSizes:
        """Of the images of the first view. Raises `DataError` where none has a size."""
        return self.seen_sizes(None)

    def seen_sizes(self, view: str | None) -> ImageSizes:
        """Of the images of a view. Raises as `sizes` does."""
        return image_sizes(self.seen_set(view))


@dataclass(frozen=True, eq=False)
class Cell:
    """One head with one seed, and the number format it shares with all others."""

    setting: Setting
    head: HeadConfig
    seed: int
    precision: Precision

    def folder(self, out: Path) -> Path:
        return cell_folder(out, self.setting.protocol.name, self.head.name, self.seed)

    @property
    def first_view(self) -> str:
        """Its name."""
        return self.setting.protocol.first_view

    def predictor(
        self, models: Sequence[Segmenter], device: torch.device, view: str | None = None
    ) -> Predictor:
        """`models`, which are on `device`, under the settings of a view, the first unless named."""
        config, mirrored = self.setting.protocol.view(view), self.setting.labels.mirrored
        batches = WindowBatches(fitting(device, self.precision))
        return Predictor(models, device, self.precision, config, mirrored, batches)

    @property
    def identity(self) -> dict[str, Any]:
        """Two runs of one identity compute the same thing; others do not share resume files."""
        setting, precision = self.setting, self.precision
        return {
            "fingerprint": setting.fingerprint,
            "dataset_fingerprint": setting.dataset_fingerprint,
            "weights_digest": setting.weights_digest,
            **_with_init(setting.init_digest),
            "protocol": setting.protocol.seen(),
            "head": self.head.model_dump(mode="json"),
            "seed": self.seed,
            "precision": {"dtype": precision.dtype, "memory_format": precision.memory_format},
        }


def open_setting(protocol: Protocol, data_root: Path | None) -> Setting:
    """Open the protocol's splits.

    Raises `DataError` for what is wrong with them, `WeightsFileError` for a file of weights that
    cannot be read, and `ConfigError` for a part that cannot be watched.
    """
    check_view_splits(protocol, data_root)
    config = protocol.dataset
    train_set = build_dataset(config, config.train, data_root)
    splits = dict.fromkeys(protocol.split(view) for view in protocol.evaluate)
    evaluated = {split: build_dataset(config, split, data_root) for split in splits}
    watched = _watched(protocol, {config.train: train_set, **evaluated}, data_root)
    check_crops(train_set, protocol.train.crop, protocol.train.scale)
    setting = Setting(
        protocol, train_set, evaluated, weights_digest(protocol), watched, init_digest(protocol)
    )
    _ = setting.fingerprint  # reads the data, whose faults are to come up here
    return setting


def _watched(
    protocol: Protocol, opened: Mapping[str, SegmentationDataset], data_root: Path | None
) -> Part | None:
    if protocol.train.watch is None:
        return None
    source = dataset_source(protocol.dataset, data_root)
    return watched_part(protocol, source.facts, opened, source.open)


def check_view_splits(protocol: Protocol, data_root: Path | None) -> None:
    """Raise `ConfigError` for a view on a split that the dataset is known not to have."""
    known = dataset_source(protocol.dataset, data_root).facts.splits
    for view, config in protocol.evaluate.items():
        if known and config.split is not None and config.split not in known:
            raise ConfigError(
                f"protocol {protocol.name}: key 'evaluate.{view}.split': dataset "
                f"{protocol.dataset.name} has no split {given(config.split)}; "
                f"{nearest(config.split, known)}"
            )


def weights_digest(protocol: Protocol) -> str | None:
    """SHA-256 of the file that `backbone.weights` names; None for published weights and none.

    A file is read once, and again when its size or time has changed. Raises
    `WeightsFileError`.
    """
    return _digest_of(weights_file(protocol.backbone.weights), "backbone.weights")


def init_digest(protocol: Protocol) -> str | None:
    """SHA-256 of the weights that `train.init` names; otherwise as `weights_digest`."""
    return _digest_of(init_file(protocol), "train.init")


def init_file(protocol: Protocol) -> Path | None:
    """The weights that `train.init` names: a file, or those in the folder of a run."""
    if protocol.train.init is None:
        return None
    path = Path(protocol.train.init).expanduser()
    return path / CHECKPOINT if path.is_dir() else path


def _with_init(digest: str | None) -> dict[str, str]:
    """A key of identities that those of before, which know of no such thing, do not have."""
    return {} if digest is None else {"init_digest": digest}


def _digest_of(path: Path | None, key: str) -> str | None:
    if path is None:
        return None
    try:
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise WeightsFileError(f"{key}: cannot read {path}: {error.strerror or error}") from error


@cache
def _digest(path: Path, _bytes: int, _nanoseconds: int) -> str:
    return digest_of(path)


def lock(execution: Execution, protocol: Protocol) -> AbstractContextManager[None]:
    """Held while what the cells share is decided, measured or drawn; waits for other processes.

    Raises `OutputError` where the folder cannot be written, `Interrupted` on request.
    """
    folder = execution.out / protocol.name
    path = folder / ".lock"
    waiting = exclusive(path, f"{path} is held", patience=math.inf, stop=execution.stop)
    drawn = [folder / name for name in ("figures", "examples")]
    return execution.world.held(_tidied(waiting, folder, *drawn))


def cell_lock(
    cell: Cell, execution: Execution, *, patience: float = 0.0
) -> AbstractContextManager[None]:
    """Held while a cell's files are written, so that processes may share a comparison by cells.

    Raises `BusyError` where another process still has it after `patience` seconds.
    """
    folder = cell.folder(execution.out)
    own = run_lock(folder, execution, patience=patience)
    return execution.world.held(_tidied(own, folder))


def run_lock(
    folder: Path, execution: Execution, *, patience: float = 0.0
) -> AbstractContextManager[None]:
    """`cell_lock` of a run whose folder is known, in this process alone."""
    busy = f"another contextbench process is writing to {folder}"
    return exclusive(folder / ".lock", busy, patience=patience, stop=execution.stop)


@contextmanager
def _tidied(held: AbstractContextManager[None], *folders: Path) -> Iterator[None]:
    """`held`, and what killed processes left in the folders is gone."""
    with held:
        for folder in folders:
            clear_leftovers(folder)
        yield


def stored_run(cell: Cell, execution: Execution) -> RunRecord | None:
    """The finished record of a cell, None if it has to run.

    Raises `ConfigError` when the folder holds a run of another protocol or of other head options,
    finished or not, and `MisplacedError` for that of another cell.
    """
    folder = cell.folder(execution.out)
    record = existing_run(folder)
    if record is None:
        return None
    _check_same_cell(record, cell, folder)
    head = cell.head.model_dump(mode="json")
    if record.fingerprint == cell.setting.fingerprint and record.head == head:
        _check_same_tuning(record, cell, folder)
        _check_same_views(record, cell, folder)
        return None if record.status == "interrupted" else record
    different = named_differences(_identity_of(record), cell.identity)
    raise ConfigError(
        f"{folder} holds a run of another configuration: {different}. Choose another --out, or "
        f"--fresh to replace it{_instead(record, cell)}"
    )


def lacking(record: RunRecord, cell: Cell, *, retry_failed: bool = False) -> list[str]:
    """Views of the cell's protocol that a finished run has yet to be evaluated in."""
    if record.status != "done":
        return []
    found = record.views
    return [
        view
        for view in cell.setting.protocol.evaluate
        if view not in found or (retry_failed and found[view].failure is not None)
    ]


def _check_same_views(record: RunRecord, cell: Cell, folder: Path) -> None:
    """Raise `ConfigError` for a view that was evaluated with other settings than it has now."""
    setting = cell.setting
    for view in setting.protocol.evaluate:
        found = record.views.get(view)
        if found is None or found.fingerprint == setting.view_fingerprint(view):
            continue
        was = {view: {**found.settings, "split": found.split}}
        now = setting.protocol.view(view).model_dump(mode="json")
        wanted = {view: {**now, "split": setting.protocol.split(view)}}
        told = [
            f"evaluate.{key} was {one}, is {other}"
            for key, (one, other) in differences(was, wanted).items()
            if one != NOT_SET
        ]
        cause = ", ".join(told) or "its data or the version of the protocol differ"
        raise ConfigError(
            f"{folder} was evaluated in another view of the name {view}: {cause}. Give the view of "
            f"the protocol another name: that costs no training, and {view} stays as it is"
        )


def _check_same_tuning(record: RunRecord, cell: Cell, folder: Path) -> None:
    """Raise `ConfigError` for a run with the same settings that were chosen otherwise."""
    tuned = cell.setting.tuned.get(cell.head.name)
    was, now = (None if each is None else each.digest for each in (record.tuned, tuned))
    if was == now:
        return
    told = [f"by tuning {digest}" if digest else "without tuning" for digest in (was, now)]
    raise ConfigError(
        f"{folder} holds a run with the same settings, but these were chosen {told[0]} and are "
        f"chosen {told[1]} now: tables that mix them would not say so. Choose another --out, or "
        "--fresh to replace it"
    )


def _instead(record: RunRecord, cell: Cell) -> str:
    """What costs no training, where nothing but the first view is another one."""
    was, wanted = _identity_of(record), cell.identity
    shared = [{**each["protocol"], "evaluate": {}} for each in (was, wanted)]
    rest = [
        key
        for key, values in differences(*shared).items()
        if NOT_SET not in values and not key.startswith(UNCOMPARED)
    ]
    same_data = was["dataset_fingerprint"] == wanted["dataset_fingerprint"]
    if rest or not same_data or record.head != wanted["head"]:
        return ""
    first = record.first_view
    return (
        f". Or leave the first view, {first}, as it was, and add a further one with these "
        "settings, as in --set evaluate.NAME.flip=true: that costs no training"
    )


def begun_precision(cell: Cell, execution: Execution) -> Precision:
    """The number format that the unfinished run of `cell` was begun in, else that of `cell`.

    A protocol that leaves the format to a timing may get another one each time; what was begun goes
    on as it was, and that is said. Raises `ConfigError` for the state of another run, naming what
    differs.
    """
    begun = _unfinished(cell, execution).precision
    if begun != cell.precision:
        execution.reporter.say(
            f"{cell.head.name}, seed {cell.seed}: goes on in {begun.dtype}, {begun.memory_format}, "
            f"as it was begun; what begins now runs in {cell.precision.dtype}, "
            f"{cell.precision.memory_format}"
        )
    return begun


def _unfinished(cell: Cell, execution: Execution) -> Cell:
    """`cell` in the number format of its stored state. Raises `ConfigError` for that of another."""
    path = cell.folder(execution.out) / RESUME
    try:
        state = read_state(path, tensors=False)
    except DamagedError:
        return cell  # it is set aside where it would be used
    if state is None:
        return cell
    if cell.setting.protocol.precision == "auto":
        cell = replace(cell, precision=Precision(**state["identity"]["precision"]))
    refuse_other(path, state, cell.identity)
    return cell


def refuse_others(cell: Cell, execution: Execution) -> None:
    """Raise `ConfigError` for a cell whose folder holds a run of another configuration."""
    if stored_run(cell, execution) is None:
        _unfinished(cell, execution)


def discard_state(cell: Cell, execution: Execution, *, quietly: bool = False) -> None:
    """Remove the state that a cell would go on from; unless `quietly`, say so."""
    path = cell.folder(execution.out) / RESUME
    if path.exists() and not quietly:
        execution.reporter.say(
            f"{cell.head.name}, seed {cell.seed}: starts anew, since its stored state, of step "
            f"{saved_progress(path).step}, led to the failure"
        )
    path.unlink(missing_ok=True)


def _check_same_cell(record: RunRecord, cell: Cell, folder: Path) -> None:
    """Raise `MisplacedError` for a record that names another protocol, head or seed."""
    wanted = cell.setting.protocol.name, cell.head.name, cell.seed
    found = record.protocol_name, record.head_name, record.seed
    if found != wanted:
        raise MisplacedError(
            f"{folder} holds the run of {found[0]}/{found[1]}/seed-{found[2]}: it was copied or "
            "moved here. Move it back, remove it, or --fresh to replace it"
        )


def _identity_of(record: RunRecord) -> dict[str, Any]:
    """What `Cell.identity` was, but for the number format."""
    return {
        "fingerprint": record.fingerprint,
        "dataset_fingerprint": record.dataset_fingerprint,
        "weights_digest": record.weights_digest,
        **_with_init(record.init_digest),
        "protocol": {**record.protocol, "evaluate": _without_split(record)},
        "head": record.head,
    }


def _without_split(record: RunRecord) -> dict[str, Any]:
    first = record.protocol["evaluate"][record.first_view]
    return {key: value for key, value in first.items() if key != "split"}
