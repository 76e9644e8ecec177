"""Cells from configuration to record: trained, evaluated, and recorded whatever happens."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.data.stream import train_loader, train_stream
from contextbench.evaluation.counting import evaluate, evaluate_each
from contextbench.models.backbone import Backbone
from contextbench.models.build import build_model, loss_weights
from contextbench.models.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter
from contextbench.records.classes import LabelInfo
from contextbench.records.counts import Areas, read_areas, write_areas
from contextbench.records.failures import Failure
from contextbench.records.history import write_history
from contextbench.records.provenance import now
from contextbench.records.runs import (
    AREAS,
    CHECKPOINT,
    NOTABLE_WAIT,
    RunRecord,
    Status,
    Used,
    damage,
    existing_run,
    read_run,
)
from contextbench.records.stored import RecordError, write_model
from contextbench.records.watched import WATCHED, Watched, write_watched
from contextbench.runs.cells import Cell, Setting, weights_digest
from contextbench.runs.watching import Show, counter
from contextbench.system.files import OutputError, digest_of, quarantine, write_text
from contextbench.system.interrupt import Interrupted, RankError
from contextbench.training.class_weights import ClassPixels, class_weights, counted
from contextbench.training.environment import environment
from contextbench.training.execution import Execution
from contextbench.training.failures import failure_of, is_out_of_memory
from contextbench.training.loop import Batches, Recipe, Training, train
from contextbench.training.losses import Criterion
from contextbench.training.processes import ALONE
from contextbench.training.resume import NAME as RESUME
from contextbench.training.resume import Progress, saved_progress
from contextbench.training.shared_backbone import train_together
from contextbench.training.tracking import TRACKERS, TensorBoard
from contextbench.training.watching import Watch, said


def run_cell(cell: Cell, execution: Execution) -> RunRecord:
    """Train, evaluate and record one cell. Raises `Interrupted` after recording that status.

    Errors of the run itself end up in the record; a full disk raises `OutputError`. Of several
    processes the first one writes, and all return the record. An error that only one of them met,
    and that the others wait for, is recorded by that one, and all raise `RankError`.
    """
    with closing(_Run(cell, execution)) as run, _recorded(run):
        model = run.build()
        _train(run, model)
        run.keep(model)
        began = time.monotonic()
        areas = _evaluate(run, model)
        run.finish(areas, time.monotonic() - began)
    return run.result


def run_together(cells: Sequence[Cell], execution: Execution) -> list[RunRecord]:
    """What `run_cell` does with each cell, for cells of one seed whose backbone is frozen.

    One backbone serves all of them, in training and in evaluation. A cell that fails is recorded
    and the others go on.
    """
    with ExitStack() as stack:
        runs = [stack.enter_context(closing(_Run(cell, execution))) for cell in cells]
        stack.enter_context(_recorded(*runs))
        trained = _train_together(runs)
        if trained:
            _evaluate_together(trained)
    return [run.result for run in runs]


def with_areas(cell: Cell, record: RunRecord, execution: Execution) -> RunRecord:
    """A finished record, counts per image beside it: counted again where they are damaged.

    That takes the checkpoint and no training, and is said; the record says the same as before.
    Where it cannot be done, or the counts are others by now, all stays as it is, and that is said.
    """
    folder, say = cell.folder(execution.out), execution.reporter.say
    reason = _areas_damage(folder, record)
    if reason is None:
        return record
    say(f"{reason}; counting again with the checkpoint")
    try:
        areas = _counted_again(cell, record, execution)
    except (Interrupted, OutputError):
        raise
    except Exception as error:
        say(f"no intervals of this run, --fresh trains it again: {Failure.of(error).cause}")
        return record
    if areas.totals() != record.totals:
        say("no intervals of this run: here the checkpoint gives other counts than it is recorded")
        return record
    if (folder / AREAS).exists():
        quarantine(folder / AREAS, reason)
    write_areas(folder / AREAS, areas)
    digests = {**record.digests, AREAS: digest_of(folder / AREAS)} if record.digests else {}
    mended = record.model_copy(update={"digests": digests})
    write_model(folder / "record.json", mended)
    return mended


def _areas_damage(folder: Path, record: RunRecord) -> str | None:
    """What is wrong with the counts per image of a record that has totals."""
    if record.totals is None:
        return None
    if AREAS in record.digests:
        return damage(folder, record, AREAS)
    try:
        same = read_areas(folder / AREAS).totals() == record.totals
    except RecordError as error:
        return Failure.of(error).message
    return None if same else f"{folder / AREAS}: the counts do not add up to those of record.json"


def _counted_again(cell: Cell, record: RunRecord, execution: Execution) -> Areas:
    cell = replace(cell, precision=Precision(**record.precision))  # type: ignore[arg-type]
    alone = replace(execution, world=ALONE)
    model = trained_model(cell, execution)  # before anything is written
    return _evaluate(_Run(cell, alone), model)


def record_lost(
    cell: Cell, execution: Execution, error: Exception, *, status: Status = "interrupted"
) -> RunRecord:
    """Record a cell whose process ended without doing so. For whoever holds its lock.

    Steps and seconds are those of its resume file; where and how it ran is known only if an
    earlier record says so.
    """
    run = _Run(cell, execution)
    before = existing_run(run.folder)
    known = {
        "precision": before.precision if before else {},
        "environment": before.environment if before else {},
        "started": before.started if before else run.began,
    }
    record = _record(run, status, Failure.of(error), None, None).model_copy(update=known)
    write_model(run.folder / "record.json", record)
    return record


def load_trained(
    folder: Path,
    protocol: Protocol,
    head: HeadConfig,
    num_classes: int,
    precision: Precision,
    device: torch.device,
) -> Segmenter:
    """The trained model in a cell's folder, in evaluation mode.

    Raises `CheckpointError` for weights that are damaged, of another model, or of another run than
    the record beside them, and `RecordError` where that cannot be read.
    """
    model = build_model(protocol, head, num_classes, seed=0, pretrained=False)
    about, path = _description(protocol, head, num_classes), folder / "record.json"
    record = read_run(path) if path.exists() else None
    own = _own_run(record.head_name, record.seed, record.fingerprint) if record else {}
    load_checkpoint(folder / CHECKPOINT, model, about, own)
    damaged = damage(folder, record, CHECKPOINT) if record else None
    if damaged is not None:
        raise CheckpointError(damaged)
    model.to(device).to(memory_format=precision.torch_memory_format)
    return model.eval()


def trained_model(cell: Cell, execution: Execution) -> Segmenter:
    """The model that a cell left. Raises as `load_trained` does."""
    setting = cell.setting
    return load_trained(
        cell.folder(execution.out),
        setting.protocol,
        cell.head,
        setting.num_classes,
        cell.precision,
        execution.device,
    )


class _Run:
    """One cell on its way to its record, and what the record will say."""

    def __init__(self, cell: Cell, execution: Execution) -> None:
        self.cell = cell
        self.execution = execution
        self.folder = cell.folder(execution.out)
        self.began = now()
        self.progress: Progress | None = None  # of the training, once it has begun
        self.record: RunRecord | None = None
        self.weights_origin: str | None = None
        self._tracked: TensorBoard | None = None
        self._watched = -1  # steps in `watch.jsonl`, once this start has written it
        self._writes = execution.world.is_main
        if self._writes:
            write_text(self.folder / "config.yaml", _resolved_yaml(cell))

    @property
    def resume_path(self) -> Path:
        return self.folder / RESUME

    @property
    def step(self) -> int:
        """Steps that are done."""
        return 0 if self.progress is None else self.progress.step

    @property
    def result(self) -> RunRecord:
        assert self.record is not None
        return self.record

    def build(self, backbone: Backbone | None = None) -> Segmenter:
        """The model with its initial weights, on a backbone of its own unless one is given."""
        setting, seed = self.cell.setting, self.cell.seed
        if weights_digest(setting.protocol) != setting.weights_digest:
            raise ConfigError(
                f"{setting.protocol.backbone.weights} is not the file that this comparison began "
                "with: heads would start from different weights. Put it back, or start anew with "
                "--fresh"
            )
        model = build_model(
            setting.protocol, self.cell.head, setting.num_classes, seed=seed, backbone=backbone
        )
        self.weights_origin = model.backbone.origin
        return model

    def recipe(self, model: Segmenter, show: Show) -> Recipe:
        """`show` is told how far a watched step is."""
        cell, execution = self.cell, self.execution
        return Recipe(
            config=cell.setting.protocol.train,
            loss_weights=loss_weights(model, cell.head),
            precision=cell.precision,
            device=execution.device,
            seed=cell.seed,
            identity=cell.identity,
            resume_path=self.resume_path,
            save_seconds=execution.save_seconds,
            criterion=_criterion(cell.setting, execution),
            world=execution.world,
            environment=environment(execution.device, execution.world),
            watch=self._watch(show),
        )

    def _watch(self, show: Show) -> Watch | None:
        cell, execution = self.cell, self.execution
        protocol, part = cell.setting.protocol, cell.setting.watched
        config, split = protocol.train.watch, protocol.watched_split
        if config is None or split is None or part is None:
            return None
        applied = partial(cell.predictor, device=execution.device)
        count = counter(part, applied, execution, show)
        return Watch(config, split, protocol.train.steps, count)

    def follow(self, progress: Progress) -> None:
        """Know how far training is, and tell whoever tracks it or reads its curve."""
        self.progress = progress
        if self._writes:
            self._store_watched(progress.watched)
        track = self.execution.track
        if track is None or not self._writes:
            return
        if self._tracked is None:
            batch = self.cell.setting.protocol.train.batch
            self._tracked = TRACKERS[track](self.folder / track, batch)
        self._tracked(progress)

    def _store_watched(self, entries: Sequence[Watched]) -> None:
        path = self.folder / WATCHED
        if len(entries) != self._watched and (entries or path.exists()):
            write_watched(path, entries)
        self._watched = len(entries)

    def close(self) -> None:
        """Write nothing more."""
        if self._tracked is not None:
            self._tracked.close()

    def keep(self, model: Segmenter) -> None:
        """Write what training left."""
        if self._writes:
            cell = self.cell
            write_history(self.folder / "history.jsonl", self.known_progress().history)
            about = {
                **_description(cell.setting.protocol, cell.head, cell.setting.num_classes),
                **_own_run(cell.head.name, cell.seed, cell.setting.fingerprint),
            }
            save_checkpoint(self.folder / CHECKPOINT, model, about)

    def finish(self, areas: Areas, seconds: float) -> None:
        """Write the counts, which took so long, and then that all is done."""
        if self._writes:
            write_areas(self.folder / AREAS, areas)
        self._conclude("done", areas=areas, evaluate_seconds=seconds)
        if self._writes:
            self.resume_path.unlink(missing_ok=True)

    def interrupt(self) -> None:
        self._conclude("interrupted")

    def fail(self, error: Exception, *, lost: bool = False) -> None:
        """Write what went wrong; `lost`: in this process alone, whichever it is."""
        self._writes = self._writes or lost
        if self._writes:
            write_history(self.folder / "history.jsonl", self.known_progress().history)
        status: Status = "out_of_memory" if is_out_of_memory(error) else "failed"
        self._conclude(status, failure=failure_of(error))

    def known_progress(self) -> Progress:
        """That of the training; of one that has not begun what its resume file says."""
        if self.progress is None:
            return saved_progress(self.resume_path)
        done = {"finished": now(), "last_step": self.progress.step}
        self.progress.legs[-1:] = [leg.model_copy(update=done) for leg in self.progress.legs[-1:]]
        return self.progress

    def digests(self) -> dict[Used, str]:
        """Of the files that a finished run is used with."""
        names = [name for name in (CHECKPOINT, AREAS) if (self.folder / name).exists()]
        return {name: digest_of(self.folder / name) for name in names}

    def _conclude(
        self,
        status: Status,
        *,
        failure: Failure | None = None,
        areas: Areas | None = None,
        evaluate_seconds: float | None = None,
    ) -> None:
        self.record = _record(self, status, failure, areas, evaluate_seconds)
        if self._writes:
            write_model(self.folder / "record.json", self.record)


@contextmanager
def _recorded(*runs: _Run) -> Iterator[None]:
    """Errors of the work inside become the records of those of `runs` that have none yet."""
    try:
        yield
    except Interrupted:
        for run in _unrecorded(runs):
            run.interrupt()
        raise
    except (OutputError, ConfigError):
        raise
    except RankError as error:
        for run in _unrecorded(runs):
            if error.own is not None:
                run.fail(error.own, lost=True)
        raise
    except Exception as error:  # any failure of one cell is a row of the table, not the end
        for run in _unrecorded(runs):
            run.fail(error)


def _unrecorded(runs: Iterable[_Run]) -> list[_Run]:
    return [run for run in runs if run.record is None]


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


def _batches(run: _Run) -> Batches:
    """The training data, from any step on."""
    setting, execution = run.cell.setting, run.execution
    config = setting.protocol.train
    stream = train_stream(config, setting.train_set, seed=run.cell.seed)

    def batches(start: int) -> Any:
        return train_loader(
            stream,
            batch=config.batch,
            start_step=start,
            workers=execution.workers,
            pin_memory=execution.device.type == "cuda",
            rank=execution.world.rank,
            processes=execution.world.size,
        )

    return batches


def _train(run: _Run, model: Segmenter) -> None:
    execution, config = run.execution, run.cell.setting.protocol.train
    with execution.reporter.task(f"train {run.cell.head.name}", config.steps) as update:

        def show(progress: Progress) -> None:
            run.follow(progress)
            recent = progress.history[-50:]
            if not recent:
                return
            loss = sum(entry["main"] for entry in recent) / len(recent)
            speed = progress.step / max(progress.seconds, 1e-9)
            note = f"loss {loss:.3f}, {speed * config.batch:.1f} images/s"
            waited = progress.wait_seconds / max(progress.seconds, 1e-9)
            if waited > NOTABLE_WAIT:
                note += f", waiting for data {waited:.0%} of the time"
            update(progress.step, note + said([progress]))

        def watching(note: str) -> None:
            update(run.step, note)

        recipe = run.recipe(model, watching)
        train(model, _batches(run), recipe, stop=execution.stop, on_flush=show)


def _train_together(runs: Sequence[_Run]) -> dict[_Run, Segmenter]:
    """The trained models of the runs that did not fail; they have one backbone."""
    execution, config = runs[0].execution, runs[0].cell.setting.protocol.train
    with execution.reporter.task(f"train {_names(runs)}", config.steps) as update:

        def watching(note: str) -> None:
            update(min(run.step for run in runs), note)

        def show(step: int, heads: int) -> None:
            scores = said([run.known_progress() for run in prepared.values()])
            update(step, f"{heads} heads{scores}")

        prepared = _prepared(runs, watching)
        arrived = train_together(
            list(prepared),
            _batches(runs[0]),
            lambda training: _recorded(prepared[training]),
            stop=execution.stop,
            on_step=show,
        )
    for training in arrived:
        with _recorded(prepared[training]):
            prepared[training].keep(training.model)
    return {prepared[each]: each.model for each in arrived if prepared[each].record is None}


def _prepared(runs: Sequence[_Run], watching: Show) -> dict[Training, _Run]:
    """Trainings on one backbone, of the runs that do not fail at once."""
    prepared: dict[Training, _Run] = {}
    backbone = None
    for run in runs:
        with _recorded(run):
            model = run.build(backbone)
            backbone = model.backbone
            prepared[Training(model, run.recipe(model, watching), run.follow)] = run
    return prepared


def _evaluate(run: _Run, model: Segmenter) -> Areas:
    predictor = run.cell.predictor([model], run.execution.device)
    with _counting(run) as show:
        return evaluate(
            predictor, run.cell.setting.evaluate_set, world=run.execution.world, progress=show
        )


def _evaluate_together(trained: Mapping[_Run, Segmenter]) -> None:
    """Evaluate all at once or, where one of them fails, each alone: it fails by itself then."""
    began = time.monotonic()
    areas = _areas_of_each(trained)
    if areas is None:
        for run, model in trained.items():
            began = time.monotonic()
            with _recorded(run):
                run.finish(_evaluate(run, model), time.monotonic() - began)
        return
    seconds = (time.monotonic() - began) / len(trained)
    for run, counts in zip(trained, areas, strict=True):
        run.finish(counts, seconds)


def _areas_of_each(trained: Mapping[_Run, Segmenter]) -> list[Areas] | None:
    runs = list(trained)
    cell, device = runs[0].cell, runs[0].execution.device
    predictor = cell.predictor(list(trained.values()), device)
    try:
        with _counting(*runs) as show:
            return evaluate_each(predictor, cell.setting.evaluate_set, progress=show)
    except Interrupted:
        raise
    except Exception:  # it comes again where it belongs
        return None


@contextmanager
def _counting(*runs: _Run) -> Iterator[Callable[[int, int], None]]:
    """Shows how many images are evaluated, and stops on request."""
    execution, images = runs[0].execution, len(runs[0].cell.setting.evaluate_set)
    with execution.reporter.task(f"evaluate {_names(runs)}", images) as update:

        def show(done: int, _total: int) -> None:
            execution.stop.check()
            update(done, "")

        yield show


def _names(runs: Iterable[_Run]) -> str:
    return ", ".join(run.cell.head.name for run in runs)


def _record(
    run: _Run,
    status: Status,
    failure: Failure | None,
    areas: Areas | None,
    evaluate_seconds: float | None,
) -> RunRecord:
    cell, setting, execution = run.cell, run.cell.setting, run.execution
    labels, progress = setting.labels, run.known_progress()
    return RunRecord(
        status=status,
        failure=failure,
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
            sampling=labels.sampling,
        ),
        precision={"dtype": cell.precision.dtype, "memory_format": cell.precision.memory_format},
        environment={
            **environment(execution.device, execution.world, precision=cell.precision),
            **({"backbone_weights": run.weights_origin} if run.weights_origin else {}),
        },
        started=progress.legs[0].started if progress.legs else run.began,
        finished=now(),
        steps=progress.step,
        train_seconds=progress.seconds,
        train_wait_seconds=progress.wait_seconds,
        watch_seconds=progress.watch_seconds if progress.watched else None,
        evaluate_seconds=evaluate_seconds,
        evaluated_images=len(areas.names) if areas else None,
        totals=areas.totals() if areas else None,
        legs=progress.legs,
        weights_digest=setting.weights_digest,
        digests=run.digests() if status == "done" else {},
        kept=progress.kept,
    )


def _description(protocol: Protocol, head: HeadConfig, num_classes: int) -> dict[str, str]:
    """What a checkpoint states about its model, and what is compared when it is loaded."""
    return {
        "head": head.head,
        "num_classes": str(num_classes),
        "backbone": protocol.backbone.name,
    }


def _own_run(head: str, seed: int, fingerprint: str) -> dict[str, str]:
    """What a checkpoint states about the run that it belongs to."""
    return {"run": head, "seed": str(seed), "fingerprint": fingerprint}


def _resolved_yaml(cell: Cell) -> str:
    content = {
        "protocol": cell.setting.protocol.model_dump(mode="json"),
        "head": cell.head.model_dump(mode="json"),
        "seed": cell.seed,
    }
    return str(yaml.safe_dump(content, sort_keys=False))
