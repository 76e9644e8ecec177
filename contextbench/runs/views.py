"""Evaluating trained models in views: what a finished run lacks, and what is damaged of it."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from contextbench.config.evaluation import COMPUTING, EvaluateConfig
from contextbench.evaluation.counting import evaluate, evaluate_each
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter
from contextbench.records.counts import Areas, areas_of, write_areas
from contextbench.records.failures import Failure
from contextbench.records.runs import RunRecord, damage
from contextbench.records.stored import RecordError, write_model
from contextbench.records.views import ViewResult, counts_file
from contextbench.runs.cells import Cell, lacking
from contextbench.runs.weights import trained_model
from contextbench.system.files import OutputError, digest_of, quarantine
from contextbench.system.interrupt import Interrupted, RankError
from contextbench.training.execution import Execution
from contextbench.training.failures import failure_of
from contextbench.training.processes import ALONE

Counted = tuple[Areas, float]
"""Counts of a view, and the seconds that they took."""


def evaluated(cell: Cell, model: Segmenter, view: str, execution: Execution) -> Counted:
    """Counts of a view. Raises as `evaluate` does."""
    began = time.monotonic()
    predictor = cell.predictor([model], execution.device, view)
    with _counting([cell], view, execution) as show:
        dataset = cell.setting.seen_set(view)
        areas = evaluate(
            predictor,
            dataset,
            world=execution.world,
            workers=execution.workers,
            progress=show,
        )
    return areas, time.monotonic() - began


def evaluated_each(
    models: Mapping[Cell, Segmenter], view: str, execution: Execution
) -> dict[Cell, Counted]:
    """Counts of models on one backbone, which sees each image once; {} where one of them fails."""
    began, cell = time.monotonic(), next(iter(models))
    predictor = cell.predictor(list(models.values()), execution.device, view)
    try:
        with _counting(models, view, execution) as show:
            dataset = cell.setting.seen_set(view)
            areas = evaluate_each(predictor, dataset, workers=execution.workers, progress=show)
    except Interrupted:
        raise
    except Exception:  # it comes again where it belongs
        return {}
    seconds = (time.monotonic() - began) / len(models)
    return {cell: (own, seconds) for cell, own in zip(models, areas, strict=True)}


def evaluated_further(
    runs: Mapping[Cell, tuple[RunRecord, Segmenter]],
    execution: Execution,
    *,
    retry_failed: bool = False,
) -> dict[Cell, RunRecord]:
    """Finished runs, evaluated in the views that they lack, and recorded after each.

    Several runs are those of models on one backbone. What fails is recorded as that view's failure.
    Raises `Interrupted`, `OutputError` and `RankError`; all views before that are kept.
    """
    records = {cell: record for cell, (record, _) in runs.items()}
    for view in next(iter(runs)).setting.protocol.evaluate if runs else ():
        missing = {
            cell: model
            for cell, (_, model) in runs.items()
            if view in lacking(records[cell], cell, retry_failed=retry_failed)
        }
        counts = evaluated_each(missing, view, execution) if len(missing) > 1 else {}
        for cell, model in missing.items():
            found = counts.get(cell) or _or_failure(cell, model, view, execution)
            records[cell] = _with_view(cell, records[cell], view, found, execution)
    return records


def with_views(
    cell: Cell, record: RunRecord, execution: Execution, *, retry_failed: bool = False
) -> RunRecord:
    """A finished record in all views of the cell's protocol, counts per image beside it.

    Damaged counts are counted again, and missing views evaluated: that takes the checkpoint and no
    training, and is said. Where it cannot be done all stays as it is, and that is said. Raises as
    `evaluated_further` does.
    """
    world, say = execution.world, execution.reporter.say
    record = world.from_main(lambda: _mended(cell, record, execution))
    record = world.from_main(lambda: _adopted(cell, record, execution))
    missing = lacking(record, cell, retry_failed=retry_failed)
    if not missing:
        return record
    name = f"{cell.head.name}, seed {cell.seed}"
    say(f"{name}: evaluating the finished run in {_listed(missing)}; it is not trained again")
    cell = _as_recorded(cell, record)
    try:
        model = trained_model(cell, execution)
    except Exception as error:
        say(f"{name} stays without {_listed(missing)}: {Failure.of(error).cause}")
        return record
    further = evaluated_further({cell: (record, model)}, execution, retry_failed=retry_failed)
    return further[cell]


def result_of(cell: Cell, view: str, areas: Areas, seconds: float | None, path: Path) -> ViewResult:
    """What a record says of a view whose counts are in the file `path`."""
    return ViewResult(
        **_identity(cell, view),
        evaluated_images=len(areas.names),
        evaluate_seconds=seconds,
        totals=areas.totals(),
        digest=digest_of(path) if path.exists() else None,
    )


def _identity(cell: Cell, view: str) -> dict[str, Any]:
    """What a record says of a view whatever came of it."""
    setting = cell.setting
    return {
        "settings": settings_of(setting.protocol.view(view)),
        "split": setting.protocol.split(view),
        "fingerprint": setting.view_fingerprint(view),
        "dataset_fingerprint": setting.seen_data(view),
    }


def settings_of(config: EvaluateConfig) -> dict[str, object]:
    """As a record has them, which names the split beside them.

    How they are computed is said where it is not as usual.
    """
    usual = {name for name in COMPUTING if getattr(config, name) == getattr(config.measured, name)}
    return config.model_dump(mode="json", exclude={"split", *usual})


def _or_failure(
    cell: Cell, model: Segmenter, view: str, execution: Execution
) -> Counted | Exception:
    try:
        return evaluated(cell, model, view, execution)
    except (Interrupted, OutputError, RankError):
        raise
    except Exception as error:  # the run has its first view, and may have others
        say = execution.reporter.say
        say(f"{cell.head.name}, seed {cell.seed}: view {view} failed: {Failure.of(error).message}")
        return error


def _with_view(
    cell: Cell, record: RunRecord, view: str, found: Counted | Exception, execution: Execution
) -> RunRecord:
    """The record with one view more, which is written with its counts."""
    path = cell.folder(execution.out) / counts_file(view, cell.first_view)
    if isinstance(found, Exception):
        result = ViewResult(**_identity(cell, view), failure=failure_of(found))
    else:
        if execution.world.is_main:
            write_areas(path, found[0])
        result = result_of(cell, view, *found, path)
    return _stored(cell, record, {**record.views, view: result}, execution)


def _stored(
    cell: Cell, record: RunRecord, views: Mapping[str, ViewResult], execution: Execution
) -> RunRecord:
    """The record with these views under the present protocol, written by the first process."""
    protocol = cell.setting.protocol.model_dump(mode="json", exclude={"dataset": {"root"}})
    order = [*cell.setting.protocol.evaluate, *views]
    ordered = {name: views[name] for name in order if name in views}
    changed = record.model_copy(update={"protocol": protocol, "views": ordered})
    if execution.world.is_main:
        write_model(cell.folder(execution.out) / "record.json", changed)
    return changed


def _adopted(cell: Cell, record: RunRecord, execution: Execution) -> RunRecord:
    """With what the record has under other names: views of the same settings and data are one."""
    setting, views = cell.setting, dict(record.views)
    folder = cell.folder(execution.out)
    files = {name: folder / counts_file(name, record.first_view) for name in views}
    for view in lacking(record, cell):
        wanted = setting.view_fingerprint(view)
        same = [name for name, each in views.items() if each.fingerprint == wanted and each.totals]
        if not same:
            continue
        execution.reporter.say(
            f"{cell.head.name}, seed {cell.seed}: view {view} is what was recorded as {same[0]}"
        )
        if view == setting.protocol.first_view:
            views[view], files[view] = views.pop(same[0]), files.pop(same[0])
            continue
        target = folder / counts_file(view, setting.protocol.first_view)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[same[0]], target)
        views[view] = views[same[0]]
    return record if views == record.views else _stored(cell, record, views, execution)


def _mended(cell: Cell, record: RunRecord, execution: Execution) -> RunRecord:
    """With the counts of each view counted again that are damaged."""
    for view in [name for name in record.views if name in cell.setting.protocol.evaluate]:
        record = _mended_view(cell, record.seen(view), execution).seen(None)
    return record


def _mended_view(cell: Cell, record: RunRecord, execution: Execution) -> RunRecord:
    """Of the view that the record is seen in; the record says the same as before."""
    folder, say = cell.folder(execution.out), execution.reporter.say
    reason = _counts_damage(folder, record)
    if reason is None or record.view is None:
        return record
    say(f"{reason}; counting again with the checkpoint")
    alone = replace(execution, world=ALONE)
    own = _as_recorded(cell, record)
    try:
        areas, _ = evaluated(own, trained_model(own, alone), record.view_name, alone)
    except (Interrupted, OutputError):
        raise
    except Exception as error:
        say(f"no intervals of this run, --fresh trains it again: {Failure.of(error).cause}")
        return record
    if areas.totals() != record.totals:
        say("no intervals of this run: here the checkpoint gives other counts than it is recorded")
        return record
    path = folder / record.counts_file
    if path.exists():
        quarantine(path, reason)
    write_areas(path, areas)
    digest = digest_of(path) if record.files else None
    result = record.view.model_copy(update={"digest": digest})
    changed = {**record.views, record.view_name: result}
    mended = record.model_copy(update={"views": changed})
    write_model(folder / "record.json", mended)
    return mended


def _counts_damage(folder: Path, record: RunRecord) -> str | None:
    """What is wrong with the counts per image of the view that the record is seen in."""
    if record.totals is None:
        return None
    if record.counts_file in record.files:
        return damage(folder, record, record.counts_file)
    try:
        areas_of(folder, record)
    except RecordError as error:
        return Failure.of(error).message
    return None


def _as_recorded(cell: Cell, record: RunRecord) -> Cell:
    """The cell in the number format that its run was trained and evaluated in."""
    return replace(cell, precision=Precision(**record.precision))  # type: ignore[arg-type]


@contextmanager
def _counting(
    cells: Iterable[Cell], view: str, execution: Execution
) -> Iterator[Callable[[int, int], None]]:
    """Shows how many images are evaluated, and stops on request."""
    names, setting = ", ".join(cell.head.name for cell in cells), next(iter(cells)).setting
    images = len(setting.seen_set(view))
    seen = f" in {view}" if len(setting.protocol.evaluate) > 1 else ""
    with execution.reporter.task(f"evaluate {names}{seen}", images) as update:

        def show(done: int, _total: int) -> None:
            execution.stop.check()
            update(done, "")

        yield show


def _listed(views: Iterable[str]) -> str:
    names = list(views)
    return f"view{'s' * (len(names) > 1)} {', '.join(names)}"
