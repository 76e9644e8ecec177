"""One run from configuration to record, and a comparison as a grid of runs.

A cell is one head with one seed under one protocol. Cells that are on disk are not run again, cells
that were interrupted go on, and a cell that fails is recorded while the others go on.
"""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from contextbench.build import build_model, loss_weights
from contextbench.checkpoint import load_checkpoint, save_checkpoint
from contextbench.class_weights import ClassPixels, class_weights, counted
from contextbench.config import ConfigError, HeadConfig, Protocol
from contextbench.console import Reporter
from contextbench.data import LabelSet, SegmentationDataset, build_dataset
from contextbench.data.stream import TrainStream, train_loader
from contextbench.data.transforms import TrainTransform, check_crop
from contextbench.distributed import ALONE, World
from contextbench.evaluation import evaluate
from contextbench.files import OutputError, write_text
from contextbench.interrupt import Interrupted, RankError, StopRequest
from contextbench.locks import BusyError, exclusive
from contextbench.losses import Criterion
from contextbench.model import Segmenter
from contextbench.precision import Precision
from contextbench.prediction import Predictor
from contextbench.provenance import environment, now
from contextbench.results import (
    Areas,
    Failure,
    LabelInfo,
    RunRecord,
    Status,
    cell_folder,
    differences,
    existing_run,
    write_areas,
    write_history,
    write_model,
)
from contextbench.training import Progress, Recipe, train


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

    def predictor(self, model: Segmenter, device: torch.device) -> Predictor:
        """`model`, which is on `device`, under the protocol's evaluation settings."""
        config, mirrored = self.setting.protocol.evaluate, self.setting.labels.mirrored
        return Predictor([model], device, self.precision, config, mirrored)

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


def run_cell(cell: Cell, execution: Execution) -> RunRecord:
    """Train, evaluate and record one cell. Raises `Interrupted` after recording that status.

    Errors of the run itself end up in the record; a full disk raises `OutputError`. Of several
    processes the first one writes, and all return the record. An error that only one of them met,
    and that the others wait for, is recorded by that one, and all raise `RankError`.
    """
    started, clock = now(), _Clock()
    folder, writes = cell.folder(execution.out), execution.world.is_main
    if writes:
        write_text(folder / "config.yaml", _resolved_yaml(cell))
    try:
        areas = _train_and_evaluate(cell, execution, folder, clock)
    except Interrupted:
        _record(cell, execution, started, clock, status="interrupted")
        raise
    except (OutputError, ConfigError):
        raise
    except RankError as error:
        if error.own is not None:
            _record_failure(cell, execution, started, clock, error.own, writes=True)
        raise
    except Exception as error:  # any failure of one cell is a row of the table, not the end
        return _record_failure(cell, execution, started, clock, error, writes=writes)
    if writes:
        write_areas(folder / "areas.npz", areas)
    record = _record(cell, execution, started, clock, status="done", areas=areas)
    if writes:
        (folder / "resume.pt").unlink(missing_ok=True)
    return record


def load_trained(
    folder: Path,
    protocol: Protocol,
    head: HeadConfig,
    num_classes: int,
    precision: Precision,
    device: torch.device,
) -> Segmenter:
    """The trained model in a cell's folder, in evaluation mode. Raises `CheckpointError`."""
    model = build_model(protocol, head, num_classes, seed=0, pretrained=False)
    about = _description(protocol, head, num_classes)
    load_checkpoint(folder / "checkpoint.safetensors", model, about)
    model.to(device).to(memory_format=precision.torch_memory_format)
    return model.eval()


def run_grid(
    setting: Setting,
    heads: Sequence[HeadConfig],
    seeds: Sequence[int],
    precision: Precision,
    execution: Execution,
    *,
    fresh: bool = False,
    retry_failed: bool = False,
) -> list[RunRecord]:
    """Run what is missing of heads x seeds; records of all cells, in that order.

    Cells that other processes are running come last, and are waited for.
    """
    cells = [Cell(setting, head, seed, precision) for seed in seeds for head in heads]
    _check_same_data(setting, execution.world)
    if not fresh:  # before the first run, not after hours
        execution.world.from_main(lambda: [stored_run(cell, execution) for cell in cells])
    records: dict[int, RunRecord] = {}
    for patience in (0.0, math.inf):
        for number, cell in enumerate(cells, 1):
            if number in records:
                continue
            label = f"[{number}/{len(cells)}] {cell.head.name}, seed {cell.seed}"
            try:
                with cell_lock(cell, execution, patience=patience):
                    records[number] = _run_missing(cell, execution, label, fresh, retry_failed)
            except BusyError:
                execution.reporter.say(f"{label}: another process is running it")
    return [records[number] for number in sorted(records)]


def _run_missing(
    cell: Cell, execution: Execution, label: str, fresh: bool, retry_failed: bool
) -> RunRecord:
    """The finished record of a cell that this process alone may run now."""
    world = execution.world
    record = None if fresh else world.from_main(lambda: stored_run(cell, execution))
    if record is not None and (record.status == "done" or not retry_failed):
        execution.reporter.say(f"{label}: {record.status} already")
        return record
    if world.is_main and (fresh or record is not None):
        (cell.folder(execution.out) / "resume.pt").unlink(missing_ok=True)
    execution.reporter.say(label)
    record = run_cell(cell, execution)
    if record.failure is not None:
        execution.reporter.say(f"{label}: {record.status}: {record.failure.message}")
    return record


def _check_same_data(setting: Setting, world: World) -> None:
    """Raise `ConfigError` where a process opened other data than the first one did."""
    fingerprints = world.together(lambda: setting.fingerprint)
    other = [rank for rank, each in enumerate(fingerprints) if each != fingerprints[0]]
    if other:
        raise ConfigError(
            f"the data of rank {', '.join(map(str, other))} differ from those of rank 0: "
            "every machine needs the same files below --data-root"
        )


class _Clock:
    """Steps and seconds of a run, kept outside it so that a failed run has them too."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.evaluate_seconds: float | None = None


def _train_and_evaluate(cell: Cell, execution: Execution, folder: Path, clock: _Clock) -> Areas:
    setting, protocol = cell.setting, cell.setting.protocol
    model = build_model(protocol, cell.head, setting.num_classes, seed=cell.seed)
    recipe = Recipe(
        config=protocol.train,
        loss_weights=loss_weights(model, cell.head),
        precision=cell.precision,
        device=execution.device,
        seed=cell.seed,
        identity=cell.identity,
        resume_path=folder / "resume.pt",
        save_seconds=execution.save_seconds,
        criterion=_criterion(setting, execution),
        world=execution.world,
    )
    _train(model, cell, recipe, execution, clock)
    if execution.world.is_main:
        write_history(folder / "history.jsonl", clock.progress.history)
        about = _description(protocol, cell.head, setting.num_classes)
        save_checkpoint(folder / "checkpoint.safetensors", model, about)
    began = time.monotonic()
    areas = _evaluate(model, cell, execution)
    clock.evaluate_seconds = time.monotonic() - began
    return areas


def _criterion(setting: Setting, execution: Execution) -> Criterion:
    """The protocol's losses; class weights from labels that are counted once for all cells."""
    config = setting.protocol.train.loss
    if config.class_weights is None:
        return Criterion.of(config, None)

    def counts() -> ClassPixels:
        dataset = setting.train_set
        path = execution.out / setting.protocol.name / "class_pixels.json"
        with execution.reporter.task("count pixels of classes", len(dataset)) as update:

            def show(done: int) -> None:
                execution.stop.check()
                update(done, "")

            return counted(dataset, setting.dataset_fingerprint, path, show)

    weighting, classes = config.class_weights, setting.num_classes
    weights = execution.world.from_main(lambda: class_weights(weighting, counts, classes))
    return Criterion.of(config, weights.to(execution.device))


def _train(
    model: Segmenter, cell: Cell, recipe: Recipe, execution: Execution, clock: _Clock
) -> None:
    config = cell.setting.protocol.train
    transform = TrainTransform(
        crop=config.crop,
        scale=config.scale,
        flip=config.flip,
        jitter=config.jitter,
        swap=cell.setting.labels.swap,
        rotate=config.rotate,
        aspect=config.aspect,
        max_class_share=config.max_class_share,
    )
    stream = TrainStream(
        cell.setting.train_set, transform, seed=cell.seed, length=config.steps * config.batch
    )

    def batches(start: int) -> Any:
        return train_loader(
            stream,
            batch=config.batch,
            start_step=start,
            workers=execution.workers,
            rank=execution.world.rank,
            processes=execution.world.size,
        )

    with execution.reporter.task(f"train {cell.head.name}", config.steps) as update:

        def show(progress: Progress) -> None:
            clock.progress = progress
            recent = progress.history[-50:]
            loss = sum(entry["main"] for entry in recent) / len(recent)
            speed = progress.step / max(progress.seconds, 1e-9)
            update(progress.step, f"loss {loss:.3f}, {speed * config.batch:.1f} images/s")

        clock.progress = train(model, batches, recipe, stop=execution.stop, on_flush=show)


def _evaluate(model: Segmenter, cell: Cell, execution: Execution) -> Areas:
    dataset = cell.setting.evaluate_set
    predictor = cell.predictor(model, execution.device)
    with execution.reporter.task(f"evaluate {cell.head.name}", len(dataset)) as update:

        def show(done: int, _total: int) -> None:
            execution.stop.check()
            update(done, "")

        return evaluate(predictor, dataset, world=execution.world, progress=show)


def _record_failure(
    cell: Cell,
    execution: Execution,
    started: str,
    clock: _Clock,
    error: Exception,
    *,
    writes: bool,
) -> RunRecord:
    memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    status: Status = "out_of_memory" if memory else "failed"
    if writes:
        write_history(cell.folder(execution.out) / "history.jsonl", clock.progress.history)
    return _record(cell, execution, started, clock, status=status, error=error, writes=writes)


def _record(
    cell: Cell,
    execution: Execution,
    started: str,
    clock: _Clock,
    *,
    status: Status,
    error: Exception | None = None,
    areas: Areas | None = None,
    writes: bool | None = None,
) -> RunRecord:
    """The record of a cell, written by the first process or by the one that `writes`."""
    labels, setting = cell.setting.labels, cell.setting
    record = RunRecord(
        status=status,
        failure=Failure.of(error) if error else None,
        protocol=setting.protocol.model_dump(mode="json", exclude={"dataset": {"root"}}),
        head=cell.head.model_dump(mode="json"),
        seed=cell.seed,
        fingerprint=setting.fingerprint,
        dataset_fingerprint=setting.dataset_fingerprint,
        labels=LabelInfo(
            classes=list(labels.classes),
            palette=list(labels.palette),
            groups={name: list(ids) for name, ids in labels.groups.items()},
            swap=list(labels.swap),
        ),
        precision={"dtype": cell.precision.dtype, "memory_format": cell.precision.memory_format},
        environment=environment(execution.device, execution.world),
        started=started,
        finished=now(),
        steps=clock.progress.step,
        train_seconds=clock.progress.seconds,
        evaluate_seconds=clock.evaluate_seconds,
        evaluated_images=len(areas.names) if areas else None,
        totals=areas.totals() if areas else None,
    )
    if writes or (writes is None and execution.world.is_main):
        write_model(cell.folder(execution.out) / "record.json", record)
    return record


def _description(protocol: Protocol, head: HeadConfig, num_classes: int) -> dict[str, str]:
    """What a checkpoint states about its model, and what is compared when it is loaded."""
    return {
        "head": head.head,
        "num_classes": str(num_classes),
        "backbone": protocol.backbone.name,
    }


def _resolved_yaml(cell: Cell) -> str:
    content = {
        "protocol": cell.setting.protocol.model_dump(mode="json"),
        "head": cell.head.model_dump(mode="json"),
        "seed": cell.seed,
    }
    return str(yaml.safe_dump(content, sort_keys=False))


def _difference(record: RunRecord, cell: Cell) -> str:
    protocol = cell.setting.protocol.model_dump(mode="json", exclude={"dataset": {"root"}})
    different = differences(
        {"protocol": record.protocol, "head": record.head},
        {"protocol": protocol, "head": cell.head.model_dump(mode="json")},
    )
    if not different:
        return "its data or the version of the protocol differ"
    return ", ".join(f"{key} was {was}, is {wanted}" for key, (was, wanted) in different.items())
