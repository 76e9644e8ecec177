"""A comparison from start to end: precision, runs, costs, tables and figures in one folder."""

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from contextbench.config.averaging import caution
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.measure.choose import PrecisionChoice, stored_choice
from contextbench.measure.passes import Workload
from contextbench.measure.profile import Timing, choose_for, profile_models, watched
from contextbench.models.build import check_heads, check_weights
from contextbench.models.compiled import check_compiles
from contextbench.models.device import device_name
from contextbench.models.precision import Precision
from contextbench.records.examples import Examples
from contextbench.records.failures import Failure
from contextbench.records.profiles import ProfileRecord, read_profile
from contextbench.records.runs import RunRecord
from contextbench.records.stored import RecordError, write_model
from contextbench.records.tuning import read_tuning
from contextbench.report.bundle import FIGURES, write_report
from contextbench.report.collection import Collection, assemble
from contextbench.runs.cells import Cell, Setting, lock, open_setting
from contextbench.runs.examples import store_examples
from contextbench.runs.grid import Grid, run_grids
from contextbench.runs.initial import check_start
from contextbench.runs.tuned import tuned_grids, without_view
from contextbench.system.files import quarantine, write_json
from contextbench.system.interrupt import Interrupted
from contextbench.training.execution import Execution
from contextbench.training.processes import batch_norm_of_all

T = TypeVar("T")

COSTS_VERSION = 2  # raised whenever costs of the same workload mean something else


@dataclass(frozen=True)
class Plan:
    """What to compare and how thoroughly to time it."""

    heads: Sequence[HeadConfig]
    seeds: Sequence[int]
    fresh: bool = False
    retry_failed: bool = False
    rounds: int = 15
    train_rounds: int = 6
    examples: int = 4  # images that are stored with predictions and attention
    figures: bool = True  # whether they are drawn; `contextbench plot` does it later
    tuned: Path | None = None  # what heads are to run with: the choices of a tuning


def compare(protocol: Protocol, plan: Plan, execution: Execution) -> Collection:
    """Run what is missing, measure costs, write `<out>/<protocol>/table.*` and `figures/`.

    Returns the records of all cells. Images of the dataset, with what the first seed's models make
    of them, go to `examples/`. Of several processes the first one does all but training and
    evaluation, while the others wait.
    Raises `DataError`, `ConfigError` and `OutputError` for wrong input, `Interrupted` on request.
    """
    tuning = None if plan.tuned is None else read_tuning(plan.tuned)
    if tuning is not None:
        protocol = without_view(protocol, tuning, execution)
    say_weights(protocol, execution)
    setting = open_setting(protocol, execution.data_root)
    grids: list[Grid] = [(setting, plan.heads)]
    if tuning is not None:
        grids = tuned_grids(setting, plan.heads, tuning, execution)
        plan = replace(plan, heads=[head for _, heads in grids for head in heads])
    for each, heads in grids:
        check_runnable(each, heads, execution)
    with lock(execution, protocol):
        precision = shared_precision(setting, plan.heads, execution)
    options = {"fresh": plan.fresh, "retry_failed": plan.retry_failed}
    records = run_grids(grids, plan.seeds, precision, execution, **options)
    runs = list(itertools.chain.from_iterable(records))
    return conclude(setting, plan, runs, precision, execution)


def say_weights(protocol: Protocol, execution: Execution) -> None:
    """Say what the backbone starts from, and what is odd about averaging its weights.

    Raises `ConfigError` for weights that do not fit it.
    """
    trained = protocol.train.init is not None  # and with it the backbone's
    origin = None if trained else execution.world.from_main(lambda: check_weights(protocol))
    if origin is not None:
        execution.reporter.say(f"backbone weights: {origin}")
    train = protocol.train
    if train.ema is not None and (text := caution(train.ema, train.steps)) is not None:
        execution.reporter.say(f"caution: {text}")


def check_runnable(
    setting: Setting, heads: Sequence[HeadConfig], execution: Execution, *, here: bool = True
) -> None:
    """Refuse before the first step what would be refused after hours; `here`: of this machine, too.

    Raises `ConfigError` for heads that cannot be built, views that no model can see and trained
    models that do not fit what is to start from them, and where torch cannot compile what is to be
    compiled; what each head starts from is said.
    """
    if here and setting.protocol.train.compile:
        check_compiles(execution.device, "train.compile")
    for view in setting.protocol.evaluate:
        workload(setting, Precision(), execution, view).check()
    check_heads(setting.protocol, heads, setting.num_classes)
    for sentence in check_start(setting, heads, execution):
        execution.reporter.say(sentence)


def workload(
    setting: Setting, precision: Precision, execution: Execution, view: str | None = None
) -> Workload:
    """What runs under the setting in each process, in a view, the first unless named."""
    world = execution.world
    return Workload(
        protocol=setting.protocol,
        classes=setting.num_classes,
        image_size=setting.seen_sizes(view).median,
        images=len(setting.seen_set(view)),
        processes=world.size,
        synchronised=batch_norm_of_all(world, execution.device),
        precision=precision,
        view=view,
    )


def conclude(
    setting: Setting,
    plan: Plan,
    runs: Sequence[RunRecord],
    precision: Precision,
    execution: Execution,
) -> Collection:
    """What a comparison does when its cells have records: costs, examples, tables, figures.

    What is not a cell may fail by itself: then it is missing, and a note says why.
    """
    protocol = setting.protocol

    def work() -> Collection:
        notes: list[str] = []
        profile = _unless_it_fails(
            "costs", lambda: _profile(setting, plan, runs, precision, execution), notes
        )
        shown = _first_cells(setting, plan, runs, precision)
        examples: Examples | None = _unless_it_fails(
            "examples",
            lambda: store_examples(setting, shown, execution, count=plan.examples),
            notes,
        )
        undrawn: list[str] = []
        with execution.stop.at_once():
            collection = _with_notes(assemble(execution.out, runs, profile), notes)
            folder, formats = execution.out / protocol.name, FIGURES if plan.figures else ()
            write_report(collection, examples, folder, formats=formats, failures=undrawn)
            for view in collection.further_views:
                write_report(assemble(execution.out, runs, profile, view), None, folder, formats=())
        return _with_notes(collection, undrawn)

    with lock(execution, protocol):
        return execution.world.from_main(work)


def _unless_it_fails(what: str, work: Callable[[], T], notes: list[str]) -> T | None:
    """What `work` returns, or None and a note why not."""
    try:
        return work()
    except Interrupted:
        raise
    except Exception as error:
        notes.append(f"There are no {what}, or not all: {Failure.of(error).cause}")
        return None


def _with_notes(collection: Collection, notes: Sequence[str]) -> Collection:
    return replace(collection, warnings=[*collection.warnings, *notes])


def shared_precision(
    setting: Setting, heads: Sequence[HeadConfig], execution: Execution
) -> Precision:
    """The number format and layout of all runs: as the protocol says, or timed once and stored.

    The choice is kept in `precision.json`, so that cells which run later, or after a restart, share
    it; another device chooses anew.
    """
    wanted = setting.protocol.precision
    if wanted != "auto":
        return Precision(dtype=wanted)
    return execution.world.from_main(lambda: _timed_precision(setting, heads, execution))


def _timed_precision(
    setting: Setting, heads: Sequence[HeadConfig], execution: Execution
) -> Precision:
    path = execution.out / setting.protocol.name / "precision.json"
    say, device = execution.reporter.say, device_name(execution.device)
    try:
        stored = stored_choice(path, device)
    except RecordError as error:
        stored = None
        renamed = quarantine(path, error).name
        say(f"{error}; it is now {renamed}, and the number format is chosen anew")
    if stored is not None:
        return stored
    say(f"timing number formats and memory layouts on {device}")
    work = workload(setting, Precision(), execution)
    choice = choose_for(work, heads, execution.device, execution.reporter, execution.stop)
    write_json(path, {"device": device, **choice.as_dict(), "workload": work.as_dict()})
    for line in _said(choice):
        say(line)
    return choice.chosen


def _said(choice: PrecisionChoice) -> list[str]:
    """What was chosen, and what could not be timed."""
    failed = [f"{name} is left out of the choice: {why}" for name, why in choice.left_out.items()]
    chosen = choice.chosen
    return [*failed, f"chose {chosen.dtype}, {chosen.memory_format} for all heads"]


def _profile(
    setting: Setting,
    plan: Plan,
    runs: Sequence[RunRecord],
    precision: Precision,
    execution: Execution,
) -> ProfileRecord:
    path = execution.out / setting.protocol.name / "profile.json"
    work = workload(setting, precision, execution)
    untimed = _untimed(plan.heads, runs)
    identity = _profile_identity(setting, plan.heads, untimed, work, execution)
    if not plan.fresh and (stored := _stored_profile(path, identity)) is not None:
        failed = any(cost.failure is not None for cost in stored.heads.values())
        if not (plan.retry_failed and failed):
            return stored
    task = watched(execution.reporter, execution.stop)
    timing = Timing(plan.rounds, plan.train_rounds, execution.device, task)
    profile = profile_models(work, plan.heads, timing, untimed)
    sizes = setting.sizes
    notes = [f"{sizes.described}, whose costs these are."] if sizes.differ else []
    changes = {"identity": identity, "notes": [*profile.notes, *notes]}
    profile = profile.model_copy(update=changes)
    write_model(path, profile)
    return profile


def _untimed(heads: Sequence[HeadConfig], runs: Sequence[RunRecord]) -> dict[str, str]:
    """Heads of which no run was completed, with the reason not to time them."""
    done = {run.head_name for run in runs if run.status == "done"}
    ended = {run.head_name: run.status.replace("_", " ") for run in runs}
    return {
        head.name: f"its runs ended as {ended[head.name]}"
        for head in heads
        if head.name in ended and head.name not in done
    }


def _profile_identity(
    setting: Setting,
    heads: Sequence[HeadConfig],
    untimed: Mapping[str, str],
    work: Workload,
    execution: Execution,
) -> str:
    content: list[Any] = [COSTS_VERSION, setting.fingerprint, work.as_dict(), str(work.precision)]
    content += [device_name(execution.device), sorted(untimed)]
    content += [head.model_dump(mode="json") for head in heads]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _stored_profile(path: Path, identity: str) -> ProfileRecord | None:
    if not path.exists():
        return None
    try:
        profile = read_profile(path)
    except RecordError as error:
        quarantine(path, error)
        return None
    return profile if profile.identity == identity else None


def _first_cells(
    setting: Setting, plan: Plan, runs: Sequence[RunRecord], precision: Precision
) -> list[Cell]:
    """The cells of the first seed that are done."""
    seed = plan.seeds[0]
    done = {run.head_name for run in runs if run.status == "done" and run.seed == seed}
    return [Cell(setting, head, seed, precision) for head in plan.heads if head.name in done]
