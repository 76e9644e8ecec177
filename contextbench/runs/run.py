"""Cells from configuration to record: trained, evaluated, and recorded whatever happens."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml

from contextbench.config.files import ConfigError
from contextbench.data.base import LabelSet
from contextbench.data.stream import train_loader, train_stream
from contextbench.models.backbone import Backbone
from contextbench.models.build import build_model, loss_weights
from contextbench.models.checkpoint import save_checkpoint
from contextbench.models.segmenter import Segmenter
from contextbench.records.classes import LabelInfo
from contextbench.records.counts import Areas, write_areas
from contextbench.records.failures import Failure
from contextbench.records.history import write_history
from contextbench.records.provenance import now
from contextbench.records.runs import (
    CHECKPOINT,
    NOTABLE_WAIT,
    Initial,
    RunRecord,
    Status,
    existing_run,
)
from contextbench.records.stored import write_model
from contextbench.records.views import COUNTS
from contextbench.records.watched import WATCHED, Watched, write_watched
from contextbench.runs.cells import Cell, Setting, init_digest, weights_digest
from contextbench.runs.initial import Start, start_of, started
from contextbench.runs.views import evaluated, evaluated_each, evaluated_further, result_of
from contextbench.runs.watching import Show, counter
from contextbench.runs.weights import description, own_run
from contextbench.system.files import OutputError, digest_of, write_text
from contextbench.system.interrupt import Interrupted, RankError
from contextbench.training.class_weights import ClassPixels, class_weights, counted
from contextbench.training.environment import environment
from contextbench.training.execution import Execution
from contextbench.training.failures import failure_of, is_out_of_memory
from contextbench.training.loop import Batches, Recipe, Training, train
from contextbench.training.losses import Criterion
from contextbench.training.resume import NAME as RESUME
from contextbench.training.resume import Progress, saved_progress
from contextbench.training.shared_backbone import train_together
from contextbench.training.tracking import TRACKERS, TensorBoard
from contextbench.training.watching import Watch, said


def run_cell(cell: Cell, execution: Execution) -> RunRecord:
    """Train, evaluate and record one cell. Raises `Interrupted` after recording that status.

    A run is finished when it is evaluated in its first view; further views come after that, so that
    what ends one of them leaves a finished run that lacks it.
    Errors of the run itself end up in the record; a full disk raises `OutputError`. Of several
    processes the first one writes, and all return the record. An error that only one of them met,
    and that the others wait for, is recorded by that one, and all raise `RankError`.
    """
    with closing(_Run(cell, execution)) as run, _recorded(run):
        model = run.build()
        _train(run, model)
        run.keep(model)
        run.finish(*evaluated(cell, model, cell.first_view, execution))
    if run.result.status != "done":
        return run.result
    return evaluated_further({cell: (run.result, model)}, execution)[cell]


def run_together(cells: Sequence[Cell], execution: Execution) -> list[RunRecord]:
    """What `run_cell` does with each cell, for cells of one seed whose backbone is frozen.

    One backbone serves all of them, in training and in evaluation. A cell that fails is recorded
    and the others go on.
    """
    trained: dict[_Run, Segmenter] = {}
    with ExitStack() as stack:
        runs = [stack.enter_context(closing(_Run(cell, execution))) for cell in cells]
        stack.enter_context(_recorded(*runs))
        trained = _train_together(runs)
        if trained:
            _evaluate_together(trained)
    finished = {
        run.cell: (run.result, model)
        for run, model in trained.items()
        if run.result.status == "done"
    }
    records = evaluated_further(finished, execution)
    return [records.get(run.cell, run.result) for run in runs]


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
        self.initial: Initial | None = None
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
        start = self._start()
        model = build_model(
            setting.protocol,
            self.cell.head,
            setting.num_classes,
            seed=seed,
            backbone=backbone,
            pretrained=start is None,  # whose backbone is the trained one
        )
        self.weights_origin = model.backbone.origin
        return started(model, start)

    def _start(self) -> Start | None:
        """The trained model to start from. Raises `ConfigError` where it is not that of before."""
        setting, head = self.cell.setting, self.cell.head
        digest = init_digest(setting.protocol)
        if digest != setting.init_digest:
            raise ConfigError(
                f"{setting.protocol.train.init} does not hold the weights that this comparison "
                "began with. Put them back, or start anew with --fresh"
            )
        start = start_of(setting.protocol, head, setting.num_classes, setting.labels.classes)
        self.initial = start.recorded(digest) if start is not None and digest is not None else None
        return start

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
                **description(cell.setting.protocol, cell.head, cell.setting.num_classes),
                **own_run(cell.head.name, cell.seed, cell.setting.fingerprint),
            }
            save_checkpoint(self.folder / CHECKPOINT, model, about)

    def finish(self, areas: Areas, seconds: float) -> None:
        """Write the counts, which took so long, and then that all is done."""
        if self._writes:
            write_areas(self.folder / COUNTS, areas)
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

    def weights(self) -> dict[Literal["checkpoint.safetensors"], str]:
        """The digest of the checkpoint, where there is one."""
        path = self.folder / CHECKPOINT
        return {CHECKPOINT: digest_of(path)} if path.exists() else {}

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
        return Criterion.of(setting.protocol, None)

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
    return Criterion.of(setting.protocol, weights.to(execution.device))


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


def _evaluate_together(trained: Mapping[_Run, Segmenter]) -> None:
    """Evaluate all at once or, where one of them fails, each alone: it fails by itself then."""
    execution = next(iter(trained)).execution
    cells = {run.cell: model for run, model in trained.items()}
    view = next(iter(cells)).first_view
    counts = evaluated_each(cells, view, execution)
    for run, model in trained.items():
        with _recorded(run):
            own = counts.get(run.cell) or evaluated(run.cell, model, view, execution)
            run.finish(*own)


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
    view, counts, seconds = cell.first_view, run.folder / COUNTS, evaluate_seconds
    labels, progress = setting.labels, run.known_progress()
    return RunRecord(
        status=status,
        failure=failure,
        protocol=setting.protocol.model_dump(mode="json", exclude={"dataset": {"root"}}),
        head=cell.head.model_dump(mode="json"),
        seed=cell.seed,
        fingerprint=setting.fingerprint,
        dataset_fingerprint=setting.dataset_fingerprint,
        labels=label_info(labels),
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
        views={} if areas is None else {view: result_of(cell, view, areas, seconds, counts)},
        legs=progress.legs,
        weights_digest=setting.weights_digest,
        initial=run.initial,
        digests=run.weights() if status == "done" else {},
        kept=progress.kept,
        tuned=setting.tuned.get(cell.head.name),
    )


def label_info(labels: LabelSet) -> LabelInfo:
    """Classes as a record states them."""
    return LabelInfo(
        classes=list(labels.classes),
        palette=list(labels.palette),
        groups={name: list(ids) for name, ids in labels.groups.items()},
        swap=list(labels.swap),
        sampling=labels.sampling,
    )


def _resolved_yaml(cell: Cell) -> str:
    content = {
        "protocol": cell.setting.protocol.model_dump(mode="json"),
        "head": cell.head.model_dump(mode="json"),
        "seed": cell.seed,
    }
    return str(yaml.safe_dump(content, sort_keys=False))
