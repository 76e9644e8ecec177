"""Why two scores differ: every recorded difference of recipe and protocol, beside that in mIoU.

Two runs, or a run and a published score. A list of differences explains nothing by itself: where
more than one thing differs, the difference in mIoU belongs to all of them together.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Group
from rich.text import Text

from contextbench.config.differences import differences
from contextbench.config.fingerprints import named
from contextbench.config.protocols import Protocol, unknown_view
from contextbench.papers.published import PublishedScore
from contextbench.papers.recipes import facts_of, score_for
from contextbench.records.comparability import (
    dataset_name,
    sampling_of,
    seen_in,
    seen_protocol,
    views_of,
)
from contextbench.records.counts import Areas, areas_of
from contextbench.records.runs import RunRecord, read_run
from contextbench.records.stored import RecordError
from contextbench.report.collection import run_note
from contextbench.report.tables.sheet import Sheet
from contextbench.report.verdicts import draws_of
from contextbench.report.words import ABSENT, ends, level_text, percent, plain
from contextbench.statistics.intervals import Interval, ModelsTest, Ranking, Resampling, rank
from contextbench.statistics.scores import scores
from contextbench.system.reading import exists

# In the order in which they are printed. The longest prefix that a key begins with says its group;
# keys are those of a protocol file where it has one.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "data": ("dataset.", "dataset_fingerprint", "classes", "evaluated_images"),
    "schedule": ("train.",),
    "augmentation": tuple(
        f"train.{key}"
        for key in ("crop", "scale", "flip", "jitter", "rotate", "aspect", "max_class_share")
    ),
    "loss": ("train.loss.",),
    "backbone": ("backbone.", "shared_backbone"),
    "head": ("head.", "head_width_factor"),
    "evaluation": ("evaluate.",),
    "execution": ("", "train.deterministic"),
}
_OWN = ("dataset_fingerprint", "classes", "evaluated_images")
"""What only records have; no published row could state it."""

COLUMNS = ("", "differs", "A", "B")
MANY = 4  # names that a value may list before it is cut

# Of the environment, what may change numbers or times; not where it ran.
ENVIRONMENT = (
    *("contextbench", "commit", "torch", "torchvision", "numpy", "device", "cuda"),
    *("float32_products", "allocator"),
)


@dataclass(frozen=True)
class Difference:
    """One value that is not the same on both sides; `key` as in a protocol file where it is one."""

    group: str
    key: str
    first: Any
    second: Any


@dataclass(frozen=True)
class Explanation:
    """Two scores and what differs between them. mIoU and intervals are fractions."""

    first: str  # what is compared, for a reader
    second: str
    miou: tuple[float | None, float | None]
    difference: float | None  # first minus second
    interval: Interval | None  # of the difference, or of the first alone where `paired` is False
    paired: bool
    statement: str  # what can be said of the difference, and what cannot
    differences: tuple[Difference, ...]  # by group, then by key
    same: tuple[Difference, ...] = ()  # what a published row states and the run has too
    unknown: tuple[str, ...] = ()  # keys of the run's recipe that a published row does not state
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {each.name: plain(getattr(self, each.name)) for each in fields(self)}


def explain_runs(
    first: Path, second: Path, resampling: Resampling = Resampling(), view: str | None = None
) -> Explanation:
    """What differs between two run folders, with the paired interval of their difference in mIoU.

    Both are seen in `view`, each in its first one unless named.
    There is an interval only where both were evaluated on the same images with the same labels.
    Raises `RecordError` for a folder without a readable record, `ConfigError` for a view that a run
    does not have.
    """
    one, other = (_Side.read(folder, view) for folder in (first, second))
    interval, statement, limits = _compared(one, other, resampling)
    recipe = differences(recipe_of(one.run), recipe_of(other.run))
    parents = {key.rpartition(".")[0] for key in recipe}  # empty on one side: its own keys tell
    recipe = {key: values for key, values in recipe.items() if key not in parents}
    same_task = one.run.labels.classes == other.run.labels.classes and (
        dataset_name(one.run) == dataset_name(other.run)
    )
    return Explanation(
        first=one.title,
        second=other.title,
        miou=(one.miou, other.miou),
        difference=_minus(one.miou, other.miou) if same_task else None,
        interval=interval,
        paired=interval is not None,
        statement=statement,
        differences=_ordered((key, *values) for key, values in recipe.items()),
        notes=(*limits, *_notes(one.run, other.run, recipe)),
    )


def explain_published(
    folder: Path,
    published: PublishedScore,
    resampling: Resampling = Resampling(),
    view: str | None = None,
) -> Explanation:
    """What a run and a published score have in common, what differs, and what nobody knows.

    The interval is that of the run's own mIoU: the counts of the published one are not known.
    Raises as `explain_runs` does.
    """
    one = _Side.read(folder, view)
    recipe = {key: value for key, (value, _) in differences(recipe_of(one.run), {}).items()}
    facts = facts_of(published, recipe)
    same_data = any(fact.key == "dataset.name" and fact.same for fact in facts)
    theirs = score_for(published, recipe)
    interval, statement, limits = _alone(one, theirs if same_data else None, resampling)
    stated = {fact.key for fact in facts}
    unknown = [
        key
        for key in recipe
        if group_of(key) != "execution" and key not in stated and not key.startswith(_OWN)
    ]
    cells = (published.cells.get("method", ""), published.backbone, published.dataset)
    return Explanation(
        first=one.title,
        second=f"{', '.join(filter(None, cells))} ({published.file}, line {published.line})",
        miou=(one.miou, theirs),
        difference=_minus(one.miou, theirs) if same_data else None,
        interval=interval,
        paired=False,
        statement=statement,
        differences=_ordered((f.key, f.run, f.published) for f in facts if not f.same),
        same=_ordered((f.key, f.run, f.published) for f in facts if f.same),
        unknown=tuple(sorted(unknown, key=lambda key: (_place(group_of(key)), key))),
        notes=(
            *limits,
            f"Source: {published.source} ({published.status}).",
            *([f"It notes: {published.notes}."] if published.notes else []),
        ),
    )


def recipe_of(run: RunRecord) -> dict[str, Any]:
    """Everything recorded that may change a score, nested; options at their default filled in.

    A record that is older than an option does not hold it, which is not a difference.
    """
    environment = {name: run.environment.get(name) for name in ENVIRONMENT}
    head = {key: value for key, value in run.head.items() if key != "name"}  # labels the row only
    return {
        **_protocol(run),
        "head": head,
        "seed": run.seed,
        "classes": run.labels.classes,
        "dataset_fingerprint": named(
            run.view.dataset_fingerprint if run.view else run.dataset_fingerprint
        ),
        "evaluated_images": run.evaluated_images,
        "number_format": run.precision,
        "environment": environment,
    }


def group_of(key: str) -> str:
    """The group that a key of a recipe is printed in."""
    found = {prefix: group for group, prefixes in GROUPS.items() for prefix in prefixes
             if key.startswith(prefix)}  # fmt: skip
    return found[max(found, key=len)]


def _place(group: str) -> int:
    return list(GROUPS).index(group)


def _ordered(items: Iterable[tuple[str, Any, Any]]) -> tuple[Difference, ...]:
    """Keys with both values, in the order of `GROUPS`; within a group as they were."""
    found = [Difference(group_of(key), key, first, second) for key, first, second in items]
    return tuple(sorted(found, key=lambda each: _place(each.group)))


def explanation_console(explanation: Explanation) -> Group:
    """For a terminal: what is compared, the two scores, what differs, what is not known."""
    one, other = (ABSENT if miou is None else f"{percent(miou, 2)} %" for miou in explanation.miou)
    scored = f"mIoU  A {one}, B {other}"
    if explanation.difference is not None:
        scored += f", A − B {percent(explanation.difference, 2)} points"
    before = [f"A  {explanation.first}", f"B  {explanation.second}", "", scored]
    different: Sheet | Text = Text("Nothing that is recorded differs.")
    if explanation.differences:
        different = Sheet.plain(COLUMNS, _rows(explanation.differences), left=COLUMNS)
    after = []
    if explanation.same:
        same = (f"{each.key} {value_text(each.first)}" for each in explanation.same)
        after.append(f"The same on both sides: {'; '.join(same)}")
    if explanation.unknown:
        groups = groupby(explanation.unknown, key=group_of)
        # Without the part of a protocol that the group says.
        named = ((group, (key.partition(".")[2] or key for key in keys)) for group, keys in groups)
        listed = "; ".join(f"{group}: {', '.join(keys)}" for group, keys in named)
        after.append(f"Not stated of B: {listed}")
    after += [f"note: {note}" for note in explanation.notes]
    return Group(*map(Text, (*before, explanation.statement, "")), different, *map(Text, after))


def value_text(value: Any) -> str:
    """A value as a protocol file has it; of many names the first few."""
    if isinstance(value, list) and len(value) > MANY and isinstance(value[0], str):
        return f"{len(value)}: {', '.join(value[:MANY])}, …"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _rows(items: Sequence[Difference]) -> Iterator[list[str]]:
    """The group stands before the first of its differences."""
    for group, members in groupby(items, key=lambda item: item.group):
        for number, item in enumerate(members):
            yield ["" if number else group, item.key, *map(value_text, (item.first, item.second))]


def _protocol(run: RunRecord) -> dict[str, Any]:
    """As recorded, with the evaluation of the view that the run is seen in alone."""
    seen = seen_protocol(run)
    content = {key: value for key, value in seen.items() if key not in ("name", "expected")}
    try:
        known = Protocol.model_validate(seen).seen()
    except ValidationError:  # of another release: as it was recorded
        return content
    del known["name"], known["expected"]
    return known


@dataclass(frozen=True)
class _Side:
    """A run and its folder, which alone tells two of one head and seed apart."""

    folder: Path
    run: RunRecord

    @classmethod
    def read(cls, folder: Path, view: str | None) -> "_Side":
        path = folder / "record.json"
        if not exists(path):
            raise RecordError(f"{folder} is not the folder of a run: it has no record.json")
        run = read_run(path)
        if view is not None and view not in views_of([run]):
            raise unknown_view(view, views_of([run]), str(folder))
        return cls(folder, run.seen(view))

    @property
    def title(self) -> str:
        run = self.run
        protocol = f"protocol {run.protocol_name}{seen_in([run])}"
        return f"{self.folder}: {run.head_name}, seed {run.seed}, {protocol}"

    @property
    def miou(self) -> float | None:
        totals = self.run.totals
        if totals is None:
            return None
        return scores(totals.intersection, totals.predicted, totals.labelled).miou

    def areas(self) -> Areas:
        """Raises `RecordError` where there are none."""
        run = self.run
        if run.totals is None:
            raise RecordError(f"{self.folder} has no scores: {run_note(run)}")
        return areas_of(self.folder, run)


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


_Judged = tuple[Interval | None, str, Sequence[str]]
"""An interval, or None, with what is to be said of it and of its limits."""


def _compared(one: _Side, other: _Side, resampling: Resampling) -> _Judged:
    """The paired interval of A - B."""
    try:
        areas = {"A": {0: one.areas()}, "B": {0: other.areas()}}
        _check_same_images(areas["A"][0], areas["B"][0])
        ranking = rank(areas, sampling=sampling_of(one.run), resampling=resampling)
    except RecordError as error:
        return None, f"Nothing can be said of the difference in mIoU: {error}.", ()
    models = ranking.pair("A", "B").models
    interval = ranking.difference("A", "B", models=True)
    return interval, _paired_text(interval, models, ranking), ranking.limits


def _alone(one: _Side, theirs: float | None, resampling: Resampling) -> _Judged:
    """The interval of the run's own mIoU; `theirs` is None where no published score compares."""
    if theirs is None:
        return None, "The published row has no mIoU that compares: see what differs.", ()
    unpaired = "The published models' counts of single images are not known"
    try:
        areas = {"A": {0: one.areas()}}
        ranking = rank(areas, sampling=sampling_of(one.run), resampling=resampling)
    except RecordError as error:
        return None, f"{unpaired}, so A − B has no interval; nor has A: {error}.", ()
    interval = ranking.heads[0].miou
    text = (
        f"{unpaired}, so A − B has no interval. That of A alone: {_range(interval)} % "
        f"({_level(ranking)}, {draws_of(ranking)})."
    )
    return interval, text, ranking.limits


def _check_same_images(one: Areas, other: Areas) -> None:
    """Raises `RecordError` unless names and labelled pixels of all images are the same."""
    if one.labelled.shape[1] != other.labelled.shape[1]:
        classes = f"{one.labelled.shape[1]} and {other.labelled.shape[1]}"
        raise RecordError(f"A and B are scored over different classes, {classes} of them")
    if one.names != other.names:
        shared = len(set(one.names) & set(other.names))
        raise RecordError(
            f"A and B were evaluated on different images: {len(one.names)} and "
            f"{len(other.names)}, of which {shared} have a name in common"
        )
    if (one.labelled != other.labelled).any():
        raise RecordError("A and B were evaluated on images of the same names with other labels")


def _paired_text(interval: Interval, models: ModelsTest, ranking: Ranking) -> str:
    sign = "≤" if models.at_floor else "="
    text = (
        f"{_level(ranking)}, paired: {_range(interval)} points ({draws_of(ranking)}; "
        f"p {sign} {models.p_value:.2g})."
    )
    if models.separated:
        return f"{text} These images separate the two models as trained; another training may not."
    if math.isnan(models.smallest_difference):
        return f"{text} These images are too few to separate any two models."
    least = percent(models.smallest_difference)
    return f"{text} These images cannot separate the two models; they would show {least} points."


def _range(interval: Interval) -> str:
    return ends(interval, "{} to {}", unknown=f"{ABSENT} to {ABSENT}")


def _level(ranking: Ranking) -> str:
    return f"{level_text(ranking.resampling.level)} interval of the test set"


def _notes(
    one: RunRecord, other: RunRecord, recipe: Mapping[str, tuple[Any, Any]]
) -> Iterable[str]:
    protocol = [key for key in recipe if group_of(key) not in ("head", "execution")]
    if one.fingerprint != other.fingerprint and not protocol:
        yield (
            "The fingerprints of the protocol differ, though nothing recorded of it does: the "
            "rules of measuring changed between the two releases, or the data did."
        )
    dirty = [str(run.environment.get("commit")) for run in (one, other)]
    if any(commit.endswith("+") for commit in dirty):
        yield "A commit with + had changes that were not committed: the code is not known exactly."
    # One thing is a whole dataset, a whole head, or a single setting.
    groups = {key: group_of(key) for key in recipe}
    things = {group if group in ("data", "head") else key for key, group in groups.items()
              if group != "execution"}  # fmt: skip
    if len(things) > 1:
        yield "More than one thing differs: the difference in mIoU is that of all together."
