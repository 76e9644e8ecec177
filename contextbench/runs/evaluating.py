"""Evaluating finished runs again: in a view that is kept with the run, or to be printed only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contextbench.config.evaluation import EvaluateConfig, checked_view
from contextbench.config.files import ConfigError, nearest, validated
from contextbench.config.fingerprints import differing
from contextbench.config.protocols import Protocol
from contextbench.data import SegmentationDataset
from contextbench.evaluation.batches import WindowBatches
from contextbench.evaluation.counting import evaluate
from contextbench.evaluation.prediction import Predictor
from contextbench.measure.fitting import fitting
from contextbench.records.classes import ClassTotals
from contextbench.records.counts import Areas, write_areas
from contextbench.records.runs import RunRecord, damage
from contextbench.records.settings import recorded_protocol
from contextbench.records.stored import RecordError, write_model
from contextbench.records.views import ViewResult, counts_file
from contextbench.runs.cells import run_lock
from contextbench.runs.trained import (
    Changes,
    finished_record,
    open_run,
    seen_config,
    source_of,
    stored_precision,
)
from contextbench.runs.views import settings_of
from contextbench.statistics.scores import CLASS_METRICS, Scores, group_iou, scores
from contextbench.system.files import digest_of
from contextbench.training.execution import Execution

LIKES = ("mmseg",)


def evaluate_runs(
    folders: Sequence[Path],
    execution: Execution,
    *,
    view: str | None = None,
    split: str | None = None,
    changes: Changes = Changes(),
    like: str | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Scores of a run, or of the mean prediction of several, as fractions, by name.

    With the settings of `view`, the first unless named, but for `changes` and `split`. A view of a
    single run is kept with it, counts and record, and read from there where it is already; `fresh`
    counts it again, also with other settings. `kept` in the result says whether it is. `like` is a
    code base, with whose settings an imported run is evaluated as that code does it.
    Classes absent from the split are None. Raises `RecordError` for runs of different classes or
    data, `ConfigError` for a view that does not exist and for one of other settings, besides what
    `open_run` raises.
    """
    folder, records = folders[0], [finished_record(each) for each in folders]
    record = records[0]
    _check_ensemble(folders, records)
    protocol = recorded_protocol(record, str(folder))
    config = _wanted(record, protocol, view, split, changes, like)
    if view is None or len(folders) > 1:
        return _described(
            folders, record, view, config, protocol, _count(folders, config, execution)
        )
    with run_lock(folder, execution):
        record = finished_record(folder)
        if not _is_there(folder, record, protocol, view, config, fresh):
            record = _added(folder, record, protocol.with_view(view, config), view, execution)
    found = record.views[view]
    assert found.totals is not None
    images = found.evaluated_images or 0
    return _described(folders, record, view, config, protocol, (found.totals, images), kept=True)


def _wanted(
    record: RunRecord,
    protocol: Protocol,
    view: str | None,
    split: str | None,
    changes: Changes,
    like: str | None,
) -> EvaluateConfig:
    """The settings to evaluate with. Raises `ConfigError` for a view that nothing describes."""
    known = view is None or view in {**record.views, **protocol.evaluate}
    settings = changes.any or split is not None or like is not None
    if view is not None and not known and settings:
        try:
            checked_view(view)
        except ValueError as error:
            raise ConfigError(f"--view {view!r}: {error}") from None
        base = protocol.view()
    else:
        try:
            base = seen_config(record, protocol, view)
        except ConfigError as error:
            raise ConfigError(
                f"{error}. A new view needs settings: --scales, --flip, --window, --stride, "
                "--split, --set"
            ) from None
    config = changes.applied_to(base if like is None else _like(record, like))
    split = split or config.split or base.split
    own = None if split == protocol.dataset.evaluate else split
    return config.model_copy(update={"split": own})


def _like(record: RunRecord, like: str) -> EvaluateConfig:
    """The settings of a code base. Raises `ConfigError` where they are not known."""
    if like not in LIKES:
        raise ConfigError(f"--like {like}: {nearest(like, LIKES)}")
    if record.imported is None or record.imported.source != like:
        raise ConfigError(
            f"--like {like} is for runs imported from there, whose files say how it evaluates them"
        )
    if record.imported.inference is None:
        raise ConfigError(
            f"--like {like}: {record.imported.file} has no configuration with a test pipeline, or "
            "it was imported before this was read; import it again from a file that has one"
        )
    content = {**record.imported.inference, "like": like}
    return validated(EvaluateConfig, content, f"the test pipeline of {record.imported.file}")


def _is_there(
    folder: Path,
    record: RunRecord,
    protocol: Protocol,
    view: str,
    config: EvaluateConfig,
    fresh: bool,
) -> bool:
    """Whether the run has this view, whole. Raises `ConfigError` for one of other settings."""
    present = {**record.views, **protocol.evaluate}
    same = view not in present
    same = same or seen_config(record, protocol, view).measured == config.measured
    first, of_protocol = record.first_view, view in protocol.evaluate
    if not same and (of_protocol or not fresh):
        owner = f"of its protocol, {protocol.name}," if of_protocol else "of this run"
        again = "" if of_protocol else ", or --fresh to replace it"
        raise ConfigError(
            f"{folder}: {view} is a view {owner} with other settings: choose another name{again}"
        )
    found = record.views.get(view)
    if found is None or found.totals is None:
        return False
    if fresh and view == first:
        raise ConfigError(
            f"{folder}: {view} is the first view, by which the run is known: it stays. Without "
            "--view its scores are counted again and printed"
        )
    return not fresh and damage(folder, record, counts_file(view, first)) is None


def _added(
    folder: Path, record: RunRecord, protocol: Protocol, view: str, execution: Execution
) -> RunRecord:
    """The run with a view of `protocol` more, which is evaluated and written with its counts."""
    config, split = protocol.view(view), protocol.split(view)
    dataset = source_of(folder, record, execution).open(split)
    data = _data(folder, record, split, dataset)
    areas = _areas([folder], config, dataset, execution)
    path = folder / counts_file(view, record.first_view)
    write_areas(path, areas)
    result = ViewResult(
        settings=settings_of(config),
        split=split,
        fingerprint=protocol.fingerprint(
            data, record.weights_digest, view, init_digest=record.init_digest
        ),
        dataset_fingerprint=data,
        evaluated_images=len(areas.names),
        totals=areas.totals(),
        digest=digest_of(path),
    )
    changed = record.model_copy(update={"views": {**record.views, view: result}})
    write_model(folder / "record.json", changed)
    return changed


def _data(folder: Path, record: RunRecord, split: str, dataset: SegmentationDataset) -> str:
    """Fingerprint of the run's training split and `dataset`.

    Raises `RecordError` where `split` is not what the run was evaluated on before.
    """
    # Of a model from elsewhere nothing was opened, unless it was scored when it was imported.
    train, *others = record.dataset_fingerprint.split("/")
    found = "/".join([train, dataset.fingerprint(), *others[1:]])
    for name, view in record.views.items():
        if view.split == split and view.dataset_fingerprint != found:
            parts = ", ".join(differing(view.dataset_fingerprint, found))
            raise RecordError(
                f"{folder}: {split} is not what view {name} was evaluated on"
                f"{': ' if parts else ''}{parts}. Views of one run are of the same data; without "
                "--view the scores are printed and not kept"
            )
    return found


def _count(
    folders: Sequence[Path], config: EvaluateConfig, execution: Execution
) -> tuple[ClassTotals, int]:
    record = finished_record(folders[0])
    split = config.split or str(record.protocol["dataset"]["evaluate"])
    dataset = source_of(folders[0], record, execution).open(split)
    areas = _areas(folders, config, dataset, execution)
    return areas.totals(), len(areas.names)


def _areas(
    folders: Sequence[Path],
    config: EvaluateConfig,
    dataset: SegmentationDataset,
    execution: Execution,
) -> Areas:
    opened = [open_run(folder, execution) for folder in folders]
    device, precision = execution.device, stored_precision(opened[0][0])
    predictor = Predictor(
        [model for _, _, model in opened],
        device,
        precision,
        config,
        dataset.labels.mirrored,
        WindowBatches(fitting(device, precision)),
    )
    name = " + ".join(f"{each.head_name} seed {each.seed}" for each, _, _ in opened)
    with execution.reporter.task(f"evaluate {name}", len(dataset)) as update:

        def show(done: int, _total: int) -> None:
            execution.stop.check()
            update(done, "")

        return evaluate(predictor, dataset, workers=execution.workers, progress=show)


def _described(
    folders: Sequence[Path],
    record: RunRecord,
    view: str | None,
    config: EvaluateConfig,
    protocol: Protocol,
    counted: tuple[ClassTotals, int],
    *,
    kept: bool = False,
) -> dict[str, Any]:
    totals, images = counted
    counts = [np.array(each) for each in (totals.intersection, totals.predicted, totals.labelled)]
    result = scores(*counts)
    miou = result.miou if config.like is None else _with_strays(result, totals)
    groups = {name: tuple(ids) for name, ids in record.labels.groups.items()}
    return {
        "head": record.head_name,
        "runs": [str(folder) for folder in folders],
        "view": view,
        "kept": kept,
        "images": images,
        **config.model_dump(mode="json"),
        "split": config.split or protocol.dataset.evaluate,
        "miou": _number(miou),
        "pixel_accuracy": _number(result.pixel_accuracy),
        "mean_accuracy": _number(result.mean_accuracy),
        "frequency_weighted_iou": _number(result.frequency_weighted_iou),
        "mean_f1": _number(result.mean_f1),
        "mean_precision": _number(result.mean_precision),
        **{
            f"{metric}_per_class": {
                name: _number(value)
                for name, value in zip(record.labels.classes, measure(*counts), strict=True)
            }
            for metric, measure in CLASS_METRICS.items()
        },
        "iou_per_group": {
            name: _number(value) for name, value in group_iou(result.iou_per_class, groups).items()
        },
    }


def _with_strays(result: Scores, totals: ClassTotals) -> float:
    """mIoU where a class that is predicted and nowhere labelled counts as 0, as in mmsegmentation.

    Classes that are neither are left out, as everywhere.
    """
    strays = [k for k in result.absent if totals.predicted[k]]
    counted = len(result.iou_per_class) - len(result.absent)
    return result.miou * counted / (counted + len(strays)) if counted else result.miou


def _check_ensemble(folders: Sequence[Path], records: Sequence[RunRecord]) -> None:
    first = records[0]
    for folder, record in zip(folders, records, strict=True):
        same = (record.labels.classes, record.protocol["dataset"], record.precision)
        if same != (first.labels.classes, first.protocol["dataset"], first.precision):
            raise RecordError(
                f"{folder} and {folders[0]} cannot predict together: their classes, datasets or "
                "number formats differ"
            )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
