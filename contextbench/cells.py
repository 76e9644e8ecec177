"""Cells, one head with one seed under one protocol each: their folders, locks and records."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from contextbench.config import ConfigError, HeadConfig, Protocol
from contextbench.console import Reporter
from contextbench.data import LabelSet, SegmentationDataset, build_dataset
from contextbench.data.transforms import check_crop
from contextbench.distributed import ALONE, World
from contextbench.fingerprints import differing
from contextbench.interrupt import StopRequest
from contextbench.locks import exclusive
from contextbench.model import Segmenter
from contextbench.precision import Precision
from contextbench.prediction import Predictor
from contextbench.results import (
    RunRecord,
    cell_folder,
    differences,
    existing_run,
)

_UNTOLD = "its data or the version of the protocol differ"


@dataclass(frozen=True)
class Execution:
    """How and where runs execute: nothing here changes what they measure."""

    out: Path
    device: torch.device
    data_root: Path | None = None
    workers: int = 0
    reporter: Reporter = field(default_factory=Reporter)
    stop: StopRequest = field(default_factory=StopRequest)
    save_seconds: float = 60.0
    world: World = ALONE


@dataclass(frozen=True)
class Setting:
    """What all cells of a comparison share, opened once."""

    protocol: Protocol
    train_set: SegmentationDataset
    evaluate_set: SegmentationDataset
    dataset_fingerprint: str
    fingerprint: str

    @property
    def labels(self) -> LabelSet:
        return self.train_set.labels

    @property
    def num_classes(self) -> int:
        return len(self.labels.classes)


@dataclass(frozen=True)
class Cell:
    """One head with one seed, and the number format it shares with all others."""

    setting: Setting
    head: HeadConfig
    seed: int
    precision: Precision

    def folder(self, out: Path) -> Path:
        return cell_folder(out, self.setting.protocol.name, self.head.name, self.seed)

    def predictor(self, models: Sequence[Segmenter], device: torch.device) -> Predictor:
        """`models`, which are on `device`, under the protocol's evaluation settings."""
        config, mirrored = self.setting.protocol.evaluate, self.setting.labels.mirrored
        return Predictor(models, device, self.precision, config, mirrored)

    @property
    def identity(self) -> str:
        """Two runs of one identity compute the same thing; others do not share resume files."""
        return (
            f"{self.setting.fingerprint}/{self.head.model_dump_json()}/{self.seed}/{self.precision}"
        )


def open_setting(protocol: Protocol, data_root: Path | None) -> Setting:
    """Open the protocol's splits. Raises `DataError` for what is wrong with them."""
    config = protocol.dataset
    train_set = build_dataset(config, config.train, data_root)
    evaluate_set = build_dataset(config, config.evaluate, data_root)
    image = train_set[0].image
    height, width = int(image.shape[-2]), int(image.shape[-1])
    check_crop(protocol.train.crop, (height, width), protocol.train.scale)
    digest = f"{train_set.fingerprint()}/{evaluate_set.fingerprint()}"
    return Setting(protocol, train_set, evaluate_set, digest, protocol.fingerprint(digest))


def lock(execution: Execution, protocol: Protocol) -> AbstractContextManager[None]:
    """Held while what the cells share is decided, measured or drawn; waits for other processes.

    Raises `OutputError` where the folder cannot be written, `Interrupted` on request.
    """
    path = execution.out / protocol.name / ".lock"
    waiting = exclusive(path, f"{path} is held", patience=math.inf, stop=execution.stop)
    return execution.world.held(waiting)


def cell_lock(
    cell: Cell, execution: Execution, *, patience: float = 0.0
) -> AbstractContextManager[None]:
    """Held while a cell's files are written, so that processes may share a comparison by cells.

    Raises `BusyError` where another process still has it after `patience` seconds.
    """
    folder = cell.folder(execution.out)
    busy = f"another contextbench process is writing to {folder}"
    own = exclusive(folder / ".lock", busy, patience=patience, stop=execution.stop)
    return execution.world.held(own)


def stored_run(cell: Cell, execution: Execution) -> RunRecord | None:
    """The finished record of a cell, None if it has to run.

    Raises `ConfigError` when the folder holds a run of another protocol or of other head options.
    """
    record = existing_run(cell.folder(execution.out))
    if record is None or record.status == "interrupted":
        return None
    head = cell.head.model_dump(mode="json")
    if record.fingerprint == cell.setting.fingerprint and record.head == head:
        return record
    raise ConfigError(
        f"{cell.folder(execution.out)} holds a run of another configuration: "
        f"{_difference(record, cell)}. Choose another --out, or --fresh to replace it"
    )


def _difference(record: RunRecord, cell: Cell) -> str:
    protocol = cell.setting.protocol.model_dump(mode="json", exclude={"dataset": {"root"}})
    different = differences(
        {"protocol": record.protocol, "head": record.head},
        {"protocol": protocol, "head": cell.head.model_dump(mode="json")},
    )
    if not different:
        parts = differing(record.dataset_fingerprint, cell.setting.dataset_fingerprint)
        return f"its data differ: {', '.join(parts)}" if parts else _UNTOLD
    return ", ".join(f"{key} was {was}, is {wanted}" for key, (was, wanted) in different.items())
