"""Trials of a grid of settings, the same number for every head, and what is chosen from them.

A trial is a run under the protocol with the values of the grid, in the view that is chosen by and
no other: what is reported is not looked at.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

from contextbench.config.files import ConfigError
from contextbench.config.fingerprints import same_images
from contextbench.config.grids import Axis, Point, grid_points, values_text
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.data import DataError, Facts, dataset_source
from contextbench.data.sizes import check_crops
from contextbench.models.build import check_heads
from contextbench.models.precision import Precision
from contextbench.records.counts import Areas, areas_of
from contextbench.records.provenance import software
from contextbench.records.runs import RunRecord, cell_folder, existing_run
from contextbench.records.stored import RecordError, write_model
from contextbench.records.tuning import (
    SUFFIX,
    TUNING,
    Compared,
    HeadTuning,
    Trial,
    TuningRecord,
    read_tuning,
    tuning_folder,
)
from contextbench.report.words import counted, duration
from contextbench.runs.cells import Cell, Setting, lock, open_setting
from contextbench.runs.comparison import check_runnable, say_weights, shared_precision
from contextbench.runs.grid import Grid, run_grids
from contextbench.runs.initial import check_start
from contextbench.runs.plan import ComparisonPlan, State, Wanted, opened, plan_comparison, state_of
from contextbench.runs.watching import check_watch, single_splits
from contextbench.statistics.intervals import Ranking, rank
from contextbench.statistics.scores import scores
from contextbench.system.interrupt import Interrupted
from contextbench.training.execution import Execution

Key = tuple[str, str, int]
"""Name of a point, name of a head, seed: which run it is."""


@dataclass(frozen=True)
class Plan:
    """What to try for which heads. `view` is chosen by; None: the only one that can be."""

    heads: Sequence[HeadConfig]
    axes: Sequence[Axis]
    seeds: Sequence[int]
    view: str | None = None
    fresh: bool = False
    retry_failed: bool = False


@dataclass(frozen=True)
class Tuning:
    """A grid that can be run: all of it was checked."""

    setting: Setting  # of the protocol without values of the grid, in all its views
    view: str
    plan: Plan
    points: Mapping[str, Sequence[Point]]  # head -> its trials
    trained_on: bool  # whether heads are trained on images of the view's split

    @property
    def protocol(self) -> Protocol:
        return self.setting.protocol

    @property
    def grids(self) -> list[Grid]:
        """What runs under one protocol, in the order of the grid."""
        heads: dict[str, list[HeadConfig]] = {}
        for point in itertools.chain.from_iterable(self.points.values()):
            heads.setdefault(point.name, []).append(point.head)
        return [(self.settings[name], group) for name, group in heads.items()]

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """Name of a point -> the same data in the view that is chosen by, with its values."""
        points = itertools.chain.from_iterable(self.points.values())
        protocols = {
            point.name: seen_alone(point.protocol, self.view, point.name) for point in points
        }
        return {name: replace(self.setting, protocol=each) for name, each in protocols.items()}

    @property
    def trials(self) -> int:
        """Of each head."""
        return len(next(iter(self.points.values())))

    @property
    def runs(self) -> int:
        return len(self.points) * self.trials * len(self.plan.seeds)


def seen_alone(protocol: Protocol, view: str, name: str) -> Protocol:
    """The protocol under another name, with one view of those it has."""
    seen = {view: protocol.view(view)}
    return protocol.model_copy(update={"name": name, "evaluate": seen, "expected": None})


def prepare(protocol: Protocol, plan: Plan, execution: Execution) -> Tuning:
    """Refuse before the first trial what would be refused after hours.

    Raises `ConfigError` for a grid, a value, or a view that cannot be; `DataError` for the data.
    """
    points = grid_points(plan.axes, protocol, plan.heads)
    facts = dataset_source(protocol.dataset, execution.data_root).facts
    view = chosen_view(protocol, plan.view, facts)
    say_weights(protocol, execution)
    setting = open_setting(protocol, execution.data_root)
    check_unseen(setting, view)
    train = single_splits(protocol.dataset.train, facts)
    trained_on = bool(train & single_splits(protocol.split(view), facts))
    tuning = Tuning(setting, view, plan, points, trained_on)
    _check_points(tuning, facts, execution)
    return tuning


def tune(protocol: Protocol, plan: Plan, execution: Execution) -> TuningRecord:
    """Run what is missing of the trials, choose, write `<out>/<protocol>-tuning/tuning.json`.

    Raises as `prepare` does, `OutputError`, and `Interrupted` on request: the same call goes on.
    """
    tuning = prepare(protocol, plan, execution)
    inside = replace(execution, out=tuning_folder(execution.out, protocol.name))
    named = seen_alone(protocol, tuning.view, f"{protocol.name}{SUFFIX}")
    setting = replace(tuning.setting, protocol=named)
    with lock(execution, named):
        precision = shared_precision(setting, plan.heads, execution)
    done = {} if plan.fresh else execution.world.from_main(lambda: _on_disk(tuning, inside))
    _say_replaced(tuning, inside)
    if len(done) < tuning.runs:
        _store(tuning, done, inside)  # so that it is seen not to be over
    try:
        runs = _run(tuning, precision, inside, done)
    except Interrupted:
        finished = execution.world.from_main(lambda: _on_disk(tuning, inside))
        left = tuning.runs - len(finished)
        execution.reporter.say(f"{len(finished)} of {tuning.runs} trials are done, {left} are left")
        raise
    return _store(tuning, runs, inside)


def _say_replaced(tuning: Tuning, execution: Execution) -> None:
    """Say which heads `tuning.json` no longer holds; their trials stay where they are."""
    try:
        before = read_tuning(execution.out)
    except RecordError:
        return
    lost = [name for name in before.heads if name not in tuning.points]
    if lost:
        execution.reporter.say(
            f"{TUNING} will be without {', '.join(lost)}, whose trials stay: name all heads in one "
            "call to have their choices together"
        )


def plan_tuning(
    protocol: Protocol, plan: Plan, wanted: Wanted, execution: Execution
) -> ComparisonPlan:
    """What the trials will take, with what lies in `execution.out`; data need not be there.

    `wanted` says how to predict. Raises as `prepare` does, but for the data.
    """
    points = grid_points(plan.axes, protocol, plan.heads)
    facts = dataset_source(protocol.dataset, execution.data_root).facts
    view = chosen_view(protocol, plan.view, facts)
    named = seen_alone(protocol, view, f"{protocol.name}{SUFFIX}")
    foretold = plan_comparison(named, wanted, execution)
    setting, _ = opened(protocol, execution.data_root)
    heads = [
        replace(head, cells=_states(points[head.name], view, wanted, setting, execution))
        for head in foretold.heads
    ]
    number = len(next(iter(points.values())))
    notes = [
        f"{number} settings of each head, of {'; '.join(map(str, plan.axes))}, chosen by view "
        f"{view} on {protocol.split(view)}. Costs and hours are those of the protocol's values.",
        *foretold.notes,
    ]
    return replace(foretold, heads=heads, notes=notes)


def _states(
    points: Sequence[Point],
    view: str,
    wanted: Wanted,
    setting: Setting | None,
    execution: Execution,
) -> dict[int | str, State]:
    """What would be done with each trial of a head."""
    states: dict[int | str, State] = {}
    for point in points:
        trial = seen_alone(point.protocol, view, point.name)
        own = None if setting is None else replace(setting, protocol=trial)
        out = tuning_folder(execution.out, point.protocol.name)
        for seed in wanted.seeds:
            folder = cell_folder(out, point.name, point.head.name, seed)
            state = state_of(folder, trial, point.head, seed, wanted, own)
            states[f"{point.name}/seed-{seed}"] = state
    return states


def chosen_view(protocol: Protocol, name: str | None, facts: Facts) -> str:
    """The view to choose by: `name`, or the only one whose split no other view has.

    Raises `ConfigError` for a view that tables report, and where it is not clear which is meant.
    """
    if name is not None:
        protocol.view(name)
        refusal = _reported(protocol, name, facts)
        if refusal is not None:
            raise ConfigError(f"--view {name}: {refusal}. {_how(protocol, facts)}")
        return name
    able = [view for view in protocol.evaluate if _reported(protocol, view, facts) is None]
    if len(able) == 1:
        return able[0]
    if able:
        raise ConfigError(f"--view says which view heads are tuned by: one of {', '.join(able)}")
    raise ConfigError(
        f"protocol {protocol.name} reports all its views, so none is there to tune by: "
        f"{_how(protocol, facts)}"
    )


def check_unseen(setting: Setting, view: str) -> None:
    """Raise `ConfigError` where another view has the very same files under another name."""
    protocol, own = setting.protocol, setting.seen_set(view).fingerprint()
    for other in protocol.evaluate:
        if other != view and same_images(setting.seen_set(other).fingerprint(), own):
            raise ConfigError(
                f"--view {view}: its split {protocol.split(view)!r} has the same images as "
                f"{protocol.split(other)!r}, which view {other} reports: scores on images that "
                "settings were chosen by are too high"
            )


def _reported(protocol: Protocol, view: str, facts: Facts) -> str | None:
    """Why a view may not be chosen by; None where it may."""
    if view == protocol.first_view:
        return "this is the first view, which tables report"
    for other in protocol.evaluate:
        splits = protocol.split(view), protocol.split(other)
        shared = single_splits(splits[0], facts) & single_splits(splits[1], facts)
        if other != view and shared:
            return (
                f"its split {splits[0]!r} has images of {splits[1]!r}, which view {other} reports: "
                "scores on images that settings were chosen by are too high"
            )
    return None


def _how(protocol: Protocol, facts: Facts) -> str:
    taken = set[str]().union(
        *(single_splits(protocol.split(view), facts) for view in protocol.evaluate)
    )
    free = [split for split in facts.splits if not single_splits(split, facts) & taken]
    return (
        "Add a view on a split that is not reported, as in --set evaluate.tuning.split=NAME; "
        f"{facts.name} has {', '.join(free) or 'no such split'}"
    )


def _check_points(tuning: Tuning, facts: Facts, execution: Execution) -> None:
    """Crops, view, watched part and head of every trial. Raises `ConfigError`."""
    for setting, _ in tuning.grids:
        values = setting.protocol.name
        try:
            train = setting.protocol.train
            check_crops(setting.train_set, train.crop, train.scale)
            check_watch(setting.protocol, facts)
            check_runnable(setting, [], execution)
        except (ConfigError, DataError) as error:
            raise ConfigError(f"--grid {values}: {error}") from error
    seen: list[HeadConfig] = []
    for points in tuning.points.values():
        for point in points:
            if point.head not in seen:
                _check_head(tuning, point, execution)
                seen.append(point.head)


def _check_head(tuning: Tuning, point: Point, execution: Execution) -> None:
    try:
        check_heads(tuning.protocol, [point.head], tuning.setting.num_classes)
        check_start(tuning.setting, [point.head], execution)
    except ConfigError as error:
        raise ConfigError(
            f"--grid {values_text(point.values)}: {error}. Every head gets as many trials: for "
            "keys that not all heads have, write --grid HEAD,HEAD:KEY=VALUES for those that do, "
            "and other keys with as many values for the rest"
        ) from error


def _run(
    tuning: Tuning, precision: Precision, execution: Execution, done: Mapping[Key, RunRecord]
) -> dict[Key, RunRecord]:
    """Records of all trials; what is left is said before, between and where it ends early."""
    plan, say, left = tuning.plan, execution.reporter.say, tuning.runs - len(done)
    say(
        f"{tuning.runs} trials: {counted(len(tuning.points), 'head')}, {tuning.trials} settings "
        f"each, {counted(len(plan.seeds), 'seed')}; {len(done)} are done, {left} are left"
    )
    runs: dict[Key, RunRecord] = {}
    options = {"fresh": plan.fresh, "retry_failed": plan.retry_failed}
    grids = tuning.grids
    records = run_grids(grids, plan.seeds, precision, execution, **options)
    for number, (setting, _) in enumerate(grids, 1):
        left = tuning.runs - len({*runs, *done})
        say(f"settings {number} of {len(grids)}: {setting.protocol.name}{_left(runs, left)}")
        for record in next(records):
            runs[setting.protocol.name, record.head_name, record.seed] = record
    return runs


def _left(runs: Mapping[Key, RunRecord], left: int) -> str:
    """For how long trials that are left will take, judged by those that ran."""
    spent = [run.train_seconds + (run.evaluate_seconds or 0) for run in runs.values()]
    if not spent or not left:
        return ""
    return f" ({left} trials left, about {duration(left * fmean(spent) / 3600)})"


def _on_disk(tuning: Tuning, execution: Execution) -> dict[Key, RunRecord]:
    """Trials of this grid that would not run again."""
    found, again = {}, tuning.plan.retry_failed
    for setting, head, seed in _cells(tuning):
        cell = Cell(setting, head, seed, Precision())
        record = existing_run(cell.folder(execution.out))
        same = record is not None and record.fingerprint == setting.fingerprint
        unfinished = ("interrupted", "failed", "out_of_memory") if again else ("interrupted",)
        if record is not None and same and record.status not in unfinished:
            found[setting.protocol.name, head.name, seed] = record
    return found


def _cells(tuning: Tuning) -> Iterator[tuple[Setting, HeadConfig, int]]:
    for setting, heads in tuning.grids:
        for head in heads:
            for seed in tuning.plan.seeds:
                yield setting, head, seed


def _store(tuning: Tuning, runs: Mapping[Key, RunRecord], execution: Execution) -> TuningRecord:
    """Write what is known by now."""

    def work() -> TuningRecord:
        record = _record(tuning, runs, execution)
        write_model(execution.out / TUNING, record)
        return record

    return execution.world.from_main(work)


def _record(tuning: Tuning, runs: Mapping[Key, RunRecord], execution: Execution) -> TuningRecord:
    setting, view = tuning.setting, tuning.view
    protocol = setting.protocol
    return TuningRecord(
        grid=[str(axis) for axis in tuning.plan.axes],
        seeds=list(tuning.plan.seeds),
        view=view,
        settings=protocol.view(view).model_dump(mode="json"),
        split=protocol.split(view),
        images=len(setting.seen_set(view)),
        trained_on=tuning.trained_on,
        protocol=protocol.model_dump(mode="json", exclude={"dataset": {"root"}}),
        fingerprint=setting.view_fingerprint(view),
        dataset_fingerprint=setting.seen_data(view),
        weights_digest=setting.weights_digest,
        init_digest=setting.init_digest,
        environment=software(),
        heads={head.name: _of_head(tuning, head, runs, execution) for head in tuning.plan.heads},
    )


def _of_head(
    tuning: Tuning, head: HeadConfig, runs: Mapping[Key, RunRecord], execution: Execution
) -> HeadTuning:
    points = tuning.points[head.name]
    trials = [_trial(tuning, point, runs) for point in points]
    found = HeadTuning(head=head.model_dump(mode="json"), trials=trials)
    chosen = choose(trials) if found.over else None
    if chosen is None:
        return found
    scored = [number for number, trial in enumerate(trials) if trial.score is not None]
    alike, compared = _not_separated(tuning, points, chosen, scored, execution)
    return found.model_copy(update={"chosen": chosen, "alike": alike, "compared": compared})


def choose(trials: Sequence[Trial]) -> int | None:
    """Number of the highest mean score, of equal ones the first; None where there is no score."""
    scored = {n: trial.score for n, trial in enumerate(trials) if trial.score is not None}
    return max(scored, key=scored.__getitem__) if scored else None


def _trial(tuning: Tuning, point: Point, runs: Mapping[Key, RunRecord]) -> Trial:
    keys = [(point.name, point.head.name, seed) for seed in tuning.plan.seeds]
    setting = tuning.settings[point.name]
    if any(key not in runs for key in keys):
        return Trial(values=dict(point.values), fingerprint=setting.fingerprint)
    records = [runs[key] for key in keys]
    causes = [run.failure.cause if run.failure else run.status for run in records if not run.totals]
    return Trial(
        values=dict(point.values),
        fingerprint=setting.fingerprint,
        scores=[_miou(run) for run in records],
        digests=[run.view.digest if run.view else None for run in records],
        cause="; ".join(dict.fromkeys(causes)) or None,
    )


def _miou(run: RunRecord) -> float | None:
    """None without one: a run that failed, or images without labels."""
    if run.totals is None:
        return None
    counts = run.totals
    miou = scores(counts.intersection, counts.predicted, counts.labelled).miou
    return None if math.isnan(miou) else miou


def _not_separated(
    tuning: Tuning,
    points: Sequence[Point],
    chosen: int,
    scored: Sequence[int],
    execution: Execution,
) -> tuple[list[int], Compared | None]:
    """The other trials that are not told apart from the chosen one, and by what.

    From three seeds on, over trainings and images as heads are; else over images alone.
    """
    try:
        areas = {str(number): _areas(tuning, points[number], execution) for number in scored}
        ranking = rank(areas, sampling=tuning.setting.labels.sampling)
    except RecordError:
        return [], None
    others = [number for number in scored if number != chosen]
    whole = ranking.claims == "heads"
    alike = [n for n in others if not _separated(ranking, str(chosen), str(n), whole)]
    return alike, "trainings" if whole else "images"


def _separated(ranking: Ranking, one: str, other: str, whole: bool) -> bool:
    pair = ranking.pair(one, other)
    return pair.separated if whole else pair.models.separated


def _areas(tuning: Tuning, point: Point, execution: Execution) -> dict[int, Areas]:
    """Counts per image of every seed. Raises `RecordError` where they cannot be read."""
    setting, areas = tuning.settings[point.name], {}
    for seed in tuning.plan.seeds:
        folder = Cell(setting, point.head, seed, Precision()).folder(execution.out)
        record = existing_run(folder)
        if record is None:
            raise RecordError(f"{folder}: there is no record")
        areas[seed] = areas_of(folder, record)
    return areas
