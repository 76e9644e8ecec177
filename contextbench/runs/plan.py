"""A comparison before it starts: its cells, what they will take, what is done already.

Nothing is written and no data are needed: classes and official numbers of images are known facts of
a dataset. With the data at hand the plan also tells which cells are done.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from contextbench.config.averaging import caution, window
from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol, weights_file
from contextbench.data import DataError, Facts, SegmentationDataset, dataset_source
from contextbench.data.paired import MissingFiles
from contextbench.evaluation.prediction import view_size
from contextbench.measure.choose import stored_choice
from contextbench.measure.forecast import Forecast, Forecaster
from contextbench.measure.passes import Size, Workload
from contextbench.models.build import check_heads, check_weights
from contextbench.models.device import device_name
from contextbench.models.precision import Precision
from contextbench.records.runs import MisplacedError, cell_folder, read_run
from contextbench.records.stored import RecordError
from contextbench.runs.cells import Setting, WeightsFileError, check_view_splits, open_setting
from contextbench.runs.initial import check_start
from contextbench.runs.watching import check_watch
from contextbench.system.errors import UserError
from contextbench.training.execution import Execution
from contextbench.training.failures import spoils_training
from contextbench.training.resume import NAME as RESUME
from contextbench.training.resume import DamagedError, read_state

State = Literal["to run", "to resume", "done", "failed", "out_of_memory", "other", "unknown"]
"""`other`: the folder holds a run of another configuration, finished or not, which a comparison
refuses to replace.
`unknown`: a record of this configuration, which counts only if its data are the same."""

STATE_NOTES: Mapping[State, str] = {
    "failed": "they run again only with --retry-failed",
    "out_of_memory": "they run again only with --retry-failed",
    "other": (
        "runs of another configuration are there, and compare refuses to replace them: choose "
        "another --out, or --fresh"
    ),
    "unknown": (
        "runs of this recipe are there; whether with the same data can be told only with the data"
    ),
}

MEMORY_NOTE = (
    "Memory is that of tensors in one process, so on one GPU; workspaces come on top. Losses that "
    "pick pixels are taken to pick all."
)

USUAL_ASPECT = 4 / 3  # of photographs, longer over shorter side
TIMED_STEPS = 3  # unless told otherwise
UNSTEADY = 1.5  # slowest over fastest of the same step


@dataclass(frozen=True)
class Wanted:
    """The cells, as a comparison takes them, and how to predict."""

    heads: Sequence[HeadConfig]
    seeds: Sequence[int]
    fresh: bool = False
    retry_failed: bool = False
    processes: int = 1  # GPUs that share each batch
    time_steps: int | None = None  # None: `TIMED_STEPS`
    card_bytes: int | None = None  # memory of the card that cells are to fit


@dataclass(frozen=True)
class SplitPlan:
    """A split; `official` where its images are not here but known in number."""

    name: str
    images: int | None
    official: bool


@dataclass(frozen=True)
class ViewPlan:
    """A view: its images, and what an evaluation of one of them is."""

    split: SplitPlan
    workload: Workload


@dataclass(frozen=True)
class HeadPlan:
    """One head: its cells and what one of them will take."""

    name: str
    cells: Mapping[int | str, State]  # seed, or name of a trial -> state
    forecast: Forecast

    @property
    def runs(self) -> int:
        """Cells that would run."""
        return sum(state in ("to run", "to resume") for state in self.cells.values())

    def fits(self, card_bytes: int) -> dict[str, bool] | None:
        """Whether training and evaluation fit into so much memory; None where nothing is known."""
        needed = {
            "training": self.forecast.training_memory_bytes,
            "evaluation": self.forecast.inference_memory_bytes,
        }
        known = {what: size <= card_bytes for what, size in needed.items() if size is not None}
        return known if len(known) == len(needed) else None


@dataclass(frozen=True)
class ComparisonPlan:
    """What is known of a comparison before it starts."""

    workload: Workload
    dataset: str
    train: SplitPlan
    views: Mapping[str, "ViewPlan"]
    assumed_size: bool  # the size of images is a guess: they differ, and none is here
    device: str
    timed_steps: int
    card_bytes: int | None  # memory of the card that was named, if any
    heads: Sequence[HeadPlan]
    notes: Sequence[str]

    @property
    def protocol(self) -> Protocol:
        return self.workload.protocol

    @property
    def evaluate(self) -> SplitPlan:
        """Of the first view."""
        return self.views[self.protocol.first_view].split

    @property
    def precision(self) -> Precision:
        return self.workload.precision

    @property
    def epochs(self) -> float | None:
        """How often training sees each image, on average."""
        config, images = self.protocol.train, self.train.images
        return config.steps * config.batch / images if images else None

    @property
    def hours(self) -> float | None:
        """Of all cells that would run, one after another; None unless all are known."""
        parts = [(head.runs, head.forecast.hours) for head in self.heads if head.runs]
        known = [runs * hours for runs, hours in parts if hours is not None]
        return sum(known) if len(known) == len(parts) else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        work = self.workload
        return {
            "protocol": self.protocol.model_dump(mode="json"),
            "dataset": self.dataset,
            "classes": work.classes,
            "train": asdict(self.train),
            "evaluate": asdict(self.evaluate),
            "views": {
                name: {**asdict(view.split), **view.workload.as_dict()}
                for name, view in self.views.items()
            },
            "epochs": self.epochs,
            "assumed_size": self.assumed_size,
            **work.as_dict(),
            "precision": asdict(self.precision),
            "device": self.device,
            "timed_steps": self.timed_steps,
            "card_bytes": self.card_bytes,
            "heads": [_head_dict(head, self.card_bytes) for head in self.heads],
            "hours": self.hours,
            "notes": list(self.notes),
        }


def plan_comparison(protocol: Protocol, wanted: Wanted, execution: Execution) -> ComparisonPlan:
    """The plan of `wanted` under `protocol`, with what lies in `execution.out`.

    Raises `ConfigError` and `DataError` for what a comparison refuses before it opens the data, and
    `ConfigError` for processes that cannot share the batch.
    """
    _check_processes(protocol, wanted.processes)
    facts = dataset_source(protocol.dataset, execution.data_root).facts
    check_watch(protocol, facts)
    check_view_splits(protocol, execution.data_root)
    setting, data_note = opened(protocol, execution.data_root)
    precision, precision_note = _precision(protocol, execution)
    views = _views(protocol, facts, setting, wanted.processes, precision)
    workload = views[protocol.first_view].workload
    assumed = _image_size(protocol, facts, setting, None)[1]
    check_heads(protocol, wanted.heads, workload.classes)
    steps = TIMED_STEPS if wanted.time_steps is None else wanted.time_steps
    further = [view.workload for view in list(views.values())[1:]]
    forecaster = Forecaster(workload, execution.device, steps, further)
    heads = _heads(forecaster, wanted, execution, setting)
    return ComparisonPlan(
        workload=workload,
        dataset=facts.name,
        train=_split(protocol.dataset.train, facts, setting.train_set if setting else None),
        views=views,
        assumed_size=assumed,
        device=device_name(execution.device),
        timed_steps=steps,
        card_bytes=wanted.card_bytes,
        heads=heads,
        notes=[
            *data_note,
            *_weights_notes(protocol),
            *_start_notes(setting, wanted, execution),
            *_average_notes(protocol),
            *_watch_notes(protocol),
            *precision_note,
            *_cell_notes(heads),
            *_size_notes(setting),
            MEMORY_NOTE,
            *_time_notes(heads, [view.workload for view in views.values()]),
        ],
    )


def _heads(
    forecaster: Forecaster, wanted: Wanted, execution: Execution, setting: Setting | None
) -> list[HeadPlan]:
    protocol, plans = forecaster.workload.protocol, []
    with execution.reporter.task("predict costs", len(wanted.heads)) as update:
        for number, head in enumerate(wanted.heads, 1):
            execution.stop.check()
            cells: dict[int | str, State] = {
                seed: state_of(
                    cell_folder(execution.out, protocol.name, head.name, seed),
                    protocol,
                    head,
                    seed,
                    wanted,
                    setting,
                )
                for seed in wanted.seeds
            }
            plans.append(HeadPlan(head.name, cells, forecaster.forecast(head)))
            update(number, head.name)
    return plans


def _check_processes(protocol: Protocol, processes: int) -> None:
    parts = processes * protocol.train.accumulate
    if protocol.train.batch % parts:
        raise ConfigError(
            f"--processes {processes}: a batch of {protocol.train.batch} has no {parts} equal "
            "parts (processes times train.accumulate)"
        )


def opened(protocol: Protocol, data_root: Path | None) -> tuple[Setting | None, list[str]]:
    """The data, or None and why."""
    try:
        return open_setting(protocol, data_root), []
    except MissingFiles as error:
        return None, [f"The data are not here: {error}"]
    except (DataError, WeightsFileError) as error:
        return None, [f"With these files compare would stop: {error}"]


def _views(
    protocol: Protocol,
    facts: Facts,
    setting: Setting | None,
    processes: int,
    precision: Precision,
) -> dict[str, ViewPlan]:
    """Every view. Raises `ConfigError` for one that no model can see."""
    views = {}
    for name in protocol.evaluate:
        split = _split(protocol.split(name), facts, setting.seen_set(name) if setting else None)
        work = Workload(
            protocol=protocol,
            classes=len(facts.labels.classes),
            image_size=_image_size(protocol, facts, setting, name)[0],
            images=split.images,
            processes=processes,
            precision=precision,
            view=name,
        )
        work.check()
        views[name] = ViewPlan(split, work)
    return views


def _split(name: str, facts: Facts, dataset: SegmentationDataset | None) -> SplitPlan:
    if dataset is None:
        return SplitPlan(name, facts.splits.get(name), official=True)
    return SplitPlan(name, len(dataset), official=False)


def _image_size(
    protocol: Protocol, facts: Facts, setting: Setting | None, view: str | None
) -> tuple[Size, bool]:
    """Of the median image of a view, and whether that is a guess."""
    if setting is not None:
        return setting.seen_sizes(view).median, False
    config = protocol.view(view)
    known = facts.size or config.size
    if known is not None:
        return known, False
    side = config.short_side or min(protocol.train.crop)
    return view_size((side, round(side * USUAL_ASPECT)), config, scale=1), True


def _precision(protocol: Protocol, execution: Execution) -> tuple[Precision, list[str]]:
    """As the protocol says, as an earlier run of this comparison chose, or float32."""
    if protocol.precision != "auto":
        return Precision(dtype=protocol.precision), []
    path = execution.out / protocol.name / "precision.json"
    try:
        stored = stored_choice(path, device_name(execution.device))
    except RecordError:
        stored = None
    if stored is not None:
        return stored, []
    return Precision(), [
        "Number format auto: compare chooses one; all this is for float32. For the other: "
        "--set precision=bfloat16."
    ]


def state_of(
    folder: Path,
    protocol: Protocol,
    head: HeadConfig,
    seed: int,
    wanted: Wanted,
    setting: Setting | None,
) -> State:
    """What a comparison would do with a cell. Reads only: what is damaged counts as not there."""
    if wanted.fresh:
        return "to run"
    try:
        record = read_run(folder / "record.json")
    except MisplacedError:
        return "other"
    except RecordError:
        return _state_without_record(folder, protocol, head, seed, setting)
    if (record.protocol_name, record.seed) != (protocol.name, seed):
        return "other"
    if record.head != head.model_dump(mode="json") or record.tuned is not None:
        return "other"
    if setting is None and not _same_recipe(record.protocol, protocol):
        return "other"
    if setting is not None and record.fingerprint != setting.fingerprint:
        return "other"
    if record.status == "interrupted":
        return "to resume"
    if record.status != "done" and wanted.retry_failed:
        if spoils_training(record.failure):
            return "to run"
        return _state_without_record(folder, protocol, head, seed, setting)
    return "unknown" if setting is None else record.status


def _state_without_record(
    folder: Path, protocol: Protocol, head: HeadConfig, seed: int, setting: Setting | None
) -> State:
    """Of a cell that goes by its stored state."""
    path = folder / RESUME
    try:
        state = read_state(path, tensors=False)
    except DamagedError:
        return "to run"
    except ConfigError:
        return "other"
    if state is None:
        return "to run"
    stored = state["identity"]
    same = (stored["head"], stored["seed"]) == (head.model_dump(mode="json"), seed) and (
        _same_recipe(stored["protocol"], protocol)
        if setting is None
        else stored["fingerprint"] == setting.fingerprint
    )
    return "to resume" if same else "other"


def _same_recipe(stored: Mapping[str, Any], protocol: Protocol) -> bool:
    """Whether a record is of this protocol, whatever data and weights it was made with."""
    try:
        recorded = Protocol.model_validate(stored)
    except ValidationError:
        return False
    return recorded.fingerprint("") == protocol.fingerprint("")


def _start_notes(setting: Setting | None, wanted: Wanted, execution: Execution) -> Iterable[str]:
    """What heads start from, where that is a trained model."""
    if setting is None:
        return
    try:
        yield from (f"{said}." for said in check_start(setting, wanted.heads, execution))
    except UserError as error:
        yield f"With this model to start from compare would stop: {error}"


def _weights_notes(protocol: Protocol) -> Iterable[str]:
    """What a file of weights is; nothing of published ones, which may have to be downloaded."""
    if protocol.train.init is not None:
        return
    if weights_file(protocol.backbone.weights) is None:
        return
    try:
        yield f"Backbone weights: {check_weights(protocol)}."
    except ConfigError as error:
        yield f"With these weights compare would stop: {error}"


def _average_notes(protocol: Protocol) -> Iterable[str]:
    decay, steps = protocol.train.ema, protocol.train.steps
    if decay is not None:
        yield caution(decay, steps) or (
            f"Averaged weights: over the last {window(decay, steps):,.0f} steps or so of {steps:,}."
        )


def _watch_notes(protocol: Protocol) -> Iterable[str]:
    watch, steps = protocol.train.watch, protocol.train.steps
    if watch is not None:
        times = math.ceil(steps / watch.every)
        yield (
            f"Watched: {watch.images:,} images of {protocol.watched_split} {times:,} times; hours "
            "take each for one of the first view."
        )


def _cell_notes(heads: Sequence[HeadPlan]) -> Iterable[str]:
    found = {state for head in heads for state in head.cells.values()}
    for state, note in STATE_NOTES.items():
        if state in found:
            yield f"Cells that are {state.replace('_', ' ')}: {note}."


def _size_notes(setting: Setting | None) -> Iterable[str]:
    if setting is not None and setting.sizes.differ:
        yield f"{setting.sizes.described}; all this is for the median."


def _time_notes(heads: Sequence[HeadPlan], works: Sequence[Workload]) -> Iterable[str]:
    """What the hours are made of; nothing where there are none."""
    work = works[0]
    if work.protocol.shared_backbone is not None:
        yield "All heads train on one pass of the backbone: together they take less than the sum."
    timed = next((head.forecast for head in heads if head.forecast.step_ms), None)
    if timed is None:
        return
    count = len(timed.step_ms)
    images = "".join(map(_images_text, works))
    yield (
        f"Hours of a cell: {work.protocol.train.steps:,} steps x ms of a step{images}. These are "
        f"medians of {count} after one that is not counted, on generated images. Loading of data "
        "is not in them."
    )
    if len(works) > 1:
        yield "Passes of other sizes than the first view's count by their area."
    ratio = max(_spread(head.forecast.step_ms) for head in heads)
    if ratio > UNSTEADY:
        yield (
            f"The slowest timed step took {ratio:.1f} times as long as the fastest of the same "
            "head: with other work on this device the hours are too many."
        )
    if any(each.images is None for each in works):
        yield "How many images are evaluated is not known: hours are those of training alone."
    if work.processes > 1:
        yield "Images are shared by the processes; what these exchange is not in the hours."


def _spread(samples: Sequence[float]) -> float:
    return max(samples) / min(samples) if samples else 1.0


def _head_dict(head: HeadPlan, card_bytes: int | None) -> dict[str, Any]:
    forecast = asdict(head.forecast)
    failure = head.forecast.failure
    forecast["failure"] = None if failure is None else failure.model_dump()
    fits = None if card_bytes is None else head.fits(card_bytes)
    cells = {str(k): v for k, v in head.cells.items()}
    return {"name": head.name, "cells": cells, **forecast, "fits": fits}


def _images_text(work: Workload) -> str:
    """What the images of a view add to the hours."""
    if work.images is None:
        return ""
    passes = "" if work.passes == 1 else f" x {work.passes:.3g} passes, smaller ones by their area"
    return f" + {work.images:,} images{passes} x ms of a pass"
