"""All records of one comparison, read once for whatever is made of them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contextbench.config.protocols import unknown_view
from contextbench.config.sampling import Sampling
from contextbench.records.classes import LabelInfo
from contextbench.records.comparability import (
    by_head,
    check_comparable,
    sampling_of,
    seen_in,
    uncounted_operators,
    views_of,
    warnings_for,
)
from contextbench.records.counts import Areas, areas_of
from contextbench.records.history import read_history
from contextbench.records.profiles import ProfileRecord, read_profile
from contextbench.records.runs import RunRecord, cell_folder, find_runs, read_run
from contextbench.records.stored import RecordError
from contextbench.records.watched import WATCHED, Watched, read_watched
from contextbench.report.words import status_text
from contextbench.statistics.intervals import Ranking, rank
from contextbench.system.reading import exists

if TYPE_CHECKING:
    import pandas as pd

Histories = Mapping[str, Mapping[int, list[dict[str, Any]]]]
"""head -> seed -> entries of `history.jsonl`"""

AreasOfRuns = Mapping[str, Mapping[int, Areas]]
"""head -> seed -> counts per image"""


WatchedOfRuns = Mapping[str, Mapping[int, Sequence[Watched]]]
"""head -> seed -> entries of `watch.jsonl`"""


@dataclass(frozen=True)
class Collection:
    """Runs of one protocol in one view, what lies beside their records, what follows from them."""

    runs: Sequence[RunRecord]
    profile: ProfileRecord | None = None
    histories: Histories = field(default_factory=dict)
    areas: AreasOfRuns = field(default_factory=dict)
    warnings: Sequence[str] = ()  # files that could not be used, one sentence each
    watched: WatchedOfRuns = field(default_factory=dict)
    folders: Mapping[tuple[str, int], Path] = field(default_factory=dict)  # of head and seed

    @property
    def labels(self) -> LabelInfo:
        """Classes, their colours and their groups."""
        return self.runs[0].labels

    @property
    def view(self) -> str:
        """The one that the runs are seen in."""
        return self.runs[0].view_name

    @property
    def further_views(self) -> list[str]:
        """Those of the runs but for the first."""
        first = {run.first_view for run in self.runs}
        return [view for view in views_of(self.runs) if view not in first]

    @property
    def ending(self) -> str:
        """What names of files have beyond those of the first view."""
        return "" if self.view == self.runs[0].first_view else f"-{self.view}"

    @property
    def view_notes(self) -> list[str]:
        """What is seen, in a sentence, where there is more than one view."""
        views, first = views_of(self.runs), self.runs[0].first_view
        if len(views) < 2:
            return []
        costs = "" if self.view == first else f" Costs and examples are those of {first}."
        return [f"Scores are those of view {self.view}, one of {', '.join(views)}.{costs}"]

    @property
    def sampling(self) -> Sampling:
        """Which images belong together."""
        return sampling_of(self.runs[0])

    @property
    def subject(self) -> str:
        """Dataset and protocol, and the view where there are several, as a title."""
        dataset = self.runs[0].protocol.get("dataset")
        name = dataset.get("name") if isinstance(dataset, dict) else None
        protocol = f"protocol {self.runs[0].protocol_name}{seen_in(self.runs)}"
        return f"{name}, {protocol}" if name else protocol

    @property
    def images(self) -> int | None:
        """How many were evaluated; None where no run was."""
        return next((run.evaluated_images for run in self.runs if run.evaluated_images), None)

    @cached_property
    def table(self) -> "pd.DataFrame":
        """A row a head, best first, with all numbers: see `comparison_table`."""
        from contextbench.report.comparison import comparison_table

        return comparison_table(self.runs, self.profile, ranking=self.ranking)

    @cached_property
    def per_class(self) -> "pd.DataFrame":
        """A row a class: see `per_class_table`."""
        from contextbench.report.comparison import per_class_table

        return per_class_table(self.runs)

    @property
    def ranking(self) -> Ranking | None:
        """What the split can say of the heads that have areas; None where it can say nothing."""
        return self._ranked if isinstance(self._ranked, Ranking) else None

    @cached_property
    def group_rankings(self) -> dict[str, Ranking]:
        """A ranking by each group of classes alone; none where it can say nothing."""
        rankings = {}
        for group, classes in self.labels.groups.items() if self.ranking else ():
            with suppress(RecordError):
                rankings[group] = rank(self.areas, sampling=self.sampling, classes=classes)
        return rankings

    @property
    def cautions(self) -> list[str]:
        """What limits the comparison, one sentence each: of the records, then of the ranking."""
        ranked = [self._ranked] if isinstance(self._ranked, str) else self._ranked.cautions
        own = (*self.view_notes, *warnings_for(self.runs, self.profile))
        found = (*own, *self.warnings, *ranked)
        return list(dict.fromkeys(found))

    @property
    def uncounted(self) -> list[str]:
        """Sentences on operators that are in no count of costs."""
        return uncounted_operators(self.runs, self.profile)

    @property
    def notes(self) -> list[str]:
        """`cautions`, then `uncounted`."""
        return [*self.cautions, *self.uncounted]

    @cached_property
    def _ranked(self) -> Ranking | str:
        """A ranking of the heads whose every scored seed has areas, so that it has their mIoU."""
        complete = {
            head: self.areas[head]
            for head, runs in by_head(self.runs).items()
            if head in self.areas
            and len(self.areas[head]) == sum(run.totals is not None for run in runs)
        }
        try:
            return rank(complete, sampling=self.sampling)
        except RecordError as error:
            return f"no intervals: {error}"


def collect(folder: Path, view: str | None = None) -> Collection:
    """What lies below `folder`: runs of one protocol and, in it, their profile.

    All is seen in `view`, the first unless named. Raises `RecordError` where there are no runs, or
    one cannot be read or occurs twice, `ConfigError` for a view that no run has, and
    `MixedProtocolsError` for runs that do not measure the same thing. Missing or unusable areas
    are a warning: there are no intervals then.
    """
    folders = find_runs(folder)
    if not folders:
        raise RecordError(f"{folder}: there is no record.json below this folder")
    costs = folder / "profile.json"
    profile = read_profile(costs) if exists(costs) else None
    cells = {cell: read_run(cell / "record.json") for cell in folders}
    return _collected(cells, profile, view, str(folder))


def assemble(
    out: Path, runs: Sequence[RunRecord], profile: ProfileRecord | None, view: str | None = None
) -> Collection:
    """`runs` that lie below `out`, with their histories and areas. Raises as `collect` does."""
    cells = {cell_folder(out, r.protocol_name, r.head_name, r.seed): r for r in runs}
    return _collected(cells, profile, view, str(out))


def run_note(run: RunRecord) -> str:
    """Why a run has no scores; empty where it has them."""
    if run.status == "done":
        return "" if run.totals is not None else _unscored(run)
    outcome = f"{status_text(run.status)} at step {run.steps}"
    return f"{outcome} ({run.failure.cause})" if run.failure else outcome


def _unscored(run: RunRecord) -> str:
    """Why a finished run has no scores in the view that it is seen in."""
    failure = run.view.failure if run.view is not None else None
    seen = "" if run.view_name == run.first_view else f" in view {run.view_name}"
    return f"not evaluated{seen}{f' ({failure.cause})' if failure else ''}"


def _collected(
    cells: Mapping[Path, RunRecord], profile: ProfileRecord | None, view: str | None, source: str
) -> Collection:
    known = views_of(cells.values())
    if view is not None and view not in known:
        raise unknown_view(view, known, f"{source}: what was evaluated there")
    cells = {cell: run.seen(view) for cell, run in cells.items()}
    runs = list(cells.values())
    check_comparable(runs)
    warnings: list[str] = []
    histories: dict[str, dict[int, list[dict[str, Any]]]] = {}
    areas: dict[str, dict[int, Areas]] = {}
    watched: dict[str, dict[int, list[Watched]]] = {}
    for cell, run in cells.items():
        head, seed = run.head_name, run.seed
        with _warned(warnings, f"no loss curve of {head} seed {seed}"):
            histories.setdefault(head, {})[seed] = read_history(cell / "history.jsonl")
        with _warned(warnings, f"no watched scores of {head} seed {seed}"):
            curve = read_watched(cell / WATCHED, len(run.labels.classes))
            watched.setdefault(head, {})[seed] = curve
        if run.totals is not None:
            with _warned(warnings, f"no interval for {head} seed {seed}"):
                areas.setdefault(head, {})[seed] = areas_of(cell, run)
    folders = {(run.head_name, run.seed): cell for cell, run in cells.items()}
    return Collection(runs, profile, histories, areas, warnings, watched, folders)


@contextmanager
def _warned(warnings: list[str], what: str) -> Iterator[None]:
    """What lies beside a record and cannot be used is a warning."""
    try:
        yield
    except RecordError as error:
        warnings.append(f"{what}: {error}")
