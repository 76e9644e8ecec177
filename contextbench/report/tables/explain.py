"""Why two scores differ: every recorded difference of recipe and protocol, beside that in mIoU.

Two runs, or a run and a published score. A list of differences explains nothing by itself: where
more than one thing differs, the difference in mIoU belongs to all of them together.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from contextbench.papers.recipes import Fact, facts_of, score_for
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
from contextbench.report.rankings import difference_to, draws_of
from contextbench.report.tables.sheet import Sheet
from contextbench.report.words import ABSENT, ends, level_text, percent
from contextbench.statistics.intervals import Interval, ModelsTest, Ranking, Resampling, rank
from contextbench.statistics.scores import scores
from contextbench.system.reading import exists

# The first group with a prefix of a key has it; keys are those of a protocol file where it has one.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "data": ("dataset.", "dataset_fingerprint", "classes", "evaluated_images"),
    "augmentation": tuple(
        f"train.{key}"
        for key in ("crop", "scale", "flip", "jitter", "rotate", "aspect", "max_class_share")
    ),
    "loss": ("train.loss.",),
    "execution": ("precision", "train.deterministic", "environment.", "number_format.", "seed"),
    "schedule": ("train.",),
    "backbone": ("backbone.", "shared_backbone"),
    "head": ("head.", "head_width_factor"),
    "evaluation": ("evaluate.",),
}
SHOWN = (
    *("data", "schedule", "augmentation", "loss", "backbone", "head", "evaluation"),
    "execution",
)
"""Groups in the order in which they are printed."""

COLUMNS = ("", "differs", "A", "B")
MANY = 4  # names that a value may list before it is cut

# Of the environment, what may change numbers or times; not where it ran.
ENVIRONMENT = (
    *("contextbench", "commit", "torch", "torchvision", "numpy", "device", "cuda"),
    "float32_products",
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
        content = asdict(self)
        interval = self.interval
        content["interval"] = None if interval is None else interval._asdict()
        return content


def explain_runs(
    first: Path,
    second: Path,
    resampling: Resampling = Resampling(),
    view: str | None = None,
) -> Explanation:
    """What differs between two run folders, with the paired interval of their difference in mIoU.

    Both are seen in `view`, each in its first one unless named.
    There is an interval only where both were evaluated on the same images with the same labels.
    Raises `RecordError` for a folder without a readable record, `ConfigError` for a view that a run
    does not have.
    """
    one, other = _run(first, view), _run(second, view)
    judged = _compared((first, one), (second, other), resampling)
    miou = _miou(one), _miou(other)
    recipe = _differences(one, other)
    return Explanation(
        first=_title(first, one),
        second=_title(second, other),
        miou=miou,
        difference=_minus(*miou) if _same_task(one, other) else None,
        interval=judged.interval,
        paired=judged.interval is not None,
        statement=judged.statement,
        differences=grouped(
            Difference(group_of(key), key, *values) for key, values in recipe.items()
        ),
        notes=(*judged.limits, *_notes(one, other, recipe)),
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
    run = _run(folder, view)
    recipe = _flat_recipe(run)
    facts = facts_of(published, recipe)
    theirs, miou = score_for(published, recipe), _miou(run)
    same_data = any(fact.key == "dataset.name" and fact.same for fact in facts)
    judged = _alone(folder, run, theirs if same_data else None, resampling)
    stated = {fact.key for fact in facts}
    return Explanation(
        first=_title(folder, run),
        second=_published_title(published),
        miou=(miou, theirs),
        difference=_minus(miou, theirs) if same_data else None,
        interval=judged.interval,
        paired=False,
        statement=judged.statement,
        differences=grouped(_difference(fact) for fact in facts if not fact.same),
        same=grouped(_difference(fact) for fact in facts if fact.same),
        unknown=tuple(
            key
            for key in sorted(recipe, key=lambda key: (SHOWN.index(group_of(key)), key))
            if group_of(key) != "execution" and key not in stated and not key.startswith(_OWN)
        ),
        notes=(*judged.limits, *_published_notes(published)),
    )


_OWN = ("dataset_fingerprint", "classes", "evaluated_images")
"""What only records have; no published row could state it."""


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
    return next(
        (name for name, prefixes in GROUPS.items() if key.startswith(prefixes)), "execution"
    )


def grouped(items: Iterable[Difference]) -> tuple[Difference, ...]:
    """In the order of `SHOWN`; within a group as they were."""
    return tuple(sorted(items, key=lambda item: SHOWN.index(item.group)))


def explanation_console(explanation: Explanation) -> Group:
    """For a terminal: what is compared, the two scores, what differs, what is not known."""
    lines = [f"A  {explanation.first}", f"B  {explanation.second}", ""]
    lines += [_scores_text(explanation), explanation.statement, ""]
    different: Sheet | Text = Text("Nothing that is recorded differs.")
    if explanation.differences:
        different = Sheet.plain(COLUMNS, _rows(explanation.differences), left=COLUMNS)
    after = []
    if explanation.same:
        same = (f"{each.key} {value_text(each.first)}" for each in explanation.same)
        after.append(f"The same on both sides: {'; '.join(same)}")
    if explanation.unknown:
        after.append(f"Not stated of B: {_by_group(explanation.unknown)}")
    after += [f"note: {note}" for note in explanation.notes]
    return Group(*map(Text, lines), different, *map(Text, after))


def value_text(value: Any) -> str:
    """A value as a protocol file has it; of many names the first few."""
    if isinstance(value, list) and len(value) > MANY and isinstance(value[0], str):
        return f"{len(value)}: {', '.join(value[:MANY])}, …"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _scores_text(explanation: Explanation) -> str:
    one, other = (ABSENT if miou is None else f"{percent(miou, 2)} %" for miou in explanation.miou)
    text = f"mIoU  A {one}, B {other}"
    if explanation.difference is not None:
        text += f", A − B {percent(explanation.difference, 2)} points"
    return text


def _rows(items: Sequence[Difference]) -> Iterator[list[str]]:
    """The group stands before the first of its differences."""
    for group, members in groupby(items, key=lambda item: item.group):
        for number, item in enumerate(members):
            values = (value_text(value) for value in (item.first, item.second))
            yield ["" if number else group, item.key, *values]


def _by_group(keys: Sequence[str]) -> str:
    groups = groupby(keys, key=group_of)
    return "; ".join(f"{group}: {', '.join(map(_short, members))}" for group, members in groups)


def _short(key: str) -> str:
    """Without the part of a protocol that the group says."""
    return key.partition(".")[2] or key


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


def _differences(one: RunRecord, other: RunRecord) -> dict[str, tuple[Any, Any]]:
    """Keys of the recipe that differ; an option that one side leaves empty only by its own keys."""
    found = differences(recipe_of(one), recipe_of(other))
    parents = {key.rpartition(".")[0] for key in found}
    return {key: values for key, values in found.items() if key not in parents}


def _flat_recipe(run: RunRecord) -> dict[str, Any]:
    """Dotted key -> value."""
    return {key: value for key, (value, _) in differences(recipe_of(run), {}).items()}


def _run(folder: Path, view: str | None) -> RunRecord:
    path = folder / "record.json"
    if not exists(path):
        raise RecordError(f"{folder} is not the folder of a run: it has no record.json")
    run = read_run(path)
    if view is not None and view not in views_of([run]):
        raise unknown_view(view, views_of([run]), str(folder))
    return run.seen(view)


def _title(folder: Path, run: RunRecord) -> str:
    """A run by its folder, which alone tells two of one head and seed apart."""
    return (
        f"{folder}: {run.head_name}, seed {run.seed}, protocol {run.protocol_name}{seen_in([run])}"
    )


def _miou(run: RunRecord) -> float | None:
    if run.totals is None:
        return None
    totals = run.totals
    return scores(totals.intersection, totals.predicted, totals.labelled).miou


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _same_task(one: RunRecord, other: RunRecord) -> bool:
    """Whether both scores are means over the same classes of a dataset of one name."""
    return one.labels.classes == other.labels.classes and dataset_name(one) == dataset_name(other)


def _difference(fact: Fact) -> Difference:
    return Difference(group_of(fact.key), fact.key, fact.run, fact.published)


@dataclass(frozen=True)
class _Judged:
    """An interval, or None, with what is to be said of it and of its limits."""

    interval: Interval | None
    statement: str
    limits: tuple[str, ...] = ()


def _compared(
    one: tuple[Path, RunRecord], other: tuple[Path, RunRecord], resampling: Resampling
) -> _Judged:
    """The paired interval of A - B."""
    try:
        areas = [_areas(*each) for each in (one, other)]
        _check_same_images(*areas)
        ranking = rank(
            {"A": {0: areas[0]}, "B": {0: areas[1]}},
            sampling=sampling_of(one[1]),
            resampling=resampling,
        )
    except RecordError as error:
        return _Judged(None, f"Nothing can be said of the difference in mIoU: {error}.")
    pair = ranking.pair("A", "B")
    interval = difference_to(ranking, "A", "B", models=True)
    return _Judged(interval, _paired_text(interval, pair.models, ranking), ranking.limits)


def _alone(folder: Path, run: RunRecord, theirs: float | None, resampling: Resampling) -> _Judged:
    """The interval of the run's own mIoU; `theirs` is None where no published score compares."""
    if theirs is None:
        return _Judged(None, "The published row has no mIoU that compares: see what differs.")
    unpaired = "The published models' counts of single images are not known"
    try:
        areas = {"A": {0: _areas(folder, run)}}
        ranking = rank(areas, sampling=sampling_of(run), resampling=resampling)
    except RecordError as error:
        return _Judged(None, f"{unpaired}, so A − B has no interval; nor has A: {error}.")
    interval = ranking.heads[0].miou
    text = (
        f"{unpaired}, so A − B has no interval. That of A alone: {_range(interval)} % "
        f"({_level(ranking)}, {draws_of(ranking)})."
    )
    return _Judged(interval, text, ranking.limits)


def _areas(folder: Path, run: RunRecord) -> Areas:
    if run.totals is None:
        cause = f" ({run.failure.cause})" if run.failure else ""
        raise RecordError(f"{folder} has no scores: it is recorded as {run.status}{cause}")
    return areas_of(folder, run)


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
    things = {_thing(key) for key in recipe if group_of(key) != "execution"}
    if len(things) > 1:
        yield "More than one thing differs: the difference in mIoU is that of all together."


def _thing(key: str) -> str:
    """What counts as one difference: a whole dataset, a whole head, or a single setting."""
    group = group_of(key)
    return group if group in ("data", "head") else key


def _published_title(published: PublishedScore) -> str:
    parts = (published.cells.get("method", ""), published.backbone, published.dataset)
    named = ", ".join(part for part in parts if part)
    return f"{named} ({published.file}, line {published.line})"


def _published_notes(published: PublishedScore) -> Iterable[str]:
    yield f"Source: {published.source} ({published.status})."
    if published.notes:
        yield f"It notes: {published.notes}."
