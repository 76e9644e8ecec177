"""What corrupted images cost each head: mIoU in the views that corrupt, against the clean one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextbench.config.evaluation import COMPUTING, COUNTING
from contextbench.records.counts import Areas, areas_of
from contextbench.records.runs import RunRecord
from contextbench.records.stored import RecordError
from contextbench.records.views import ViewResult
from contextbench.report.collection import Collection
from contextbench.statistics.counted import loss_ranking
from contextbench.statistics.intervals import HeadStatistics, Ranking

NO_PART = ("corrupt", *COUNTING, *COMPUTING)
"""Settings in which a view may differ from the clean one that it is compared with."""


@dataclass(frozen=True)
class Point:
    """One corruption at one strength; scores in `ranking` are changes of mIoU, at most 0 mostly."""

    kind: str
    strength: int
    view: str
    ranking: Ranking
    clean: Mapping[str, float]  # head -> mIoU on clean images, mean over seeds

    def of(self, head: str) -> HeadStatistics:
        return self.ranking.of(head)

    def miou(self, head: str) -> float:
        """On corrupted images, mean over seeds."""
        return self.clean[head] + self.of(head).miou.estimate


@dataclass(frozen=True)
class Robustness:
    """Every view that corrupts and that all heads were evaluated in."""

    heads: Sequence[str]  # best first on clean images
    points: Sequence[Point]  # by kind, then by strength
    left_out: Sequence[str]  # views that corrupt and are not here, each with the reason

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(point.kind for point in self.points))

    def of_kind(self, kind: str) -> list[Point]:
        return [point for point in self.points if point.kind == kind]


def robustness_of(collection: Collection) -> Robustness | None:
    """Against the view that is seen, if that is clean; None where nothing is corrupted.

    Views that differ from it in more than the corruption, such as scales, or that a run lacks, are
    left out and named.
    """
    runs = [run for run in collection.runs if run.totals is not None]
    if not runs or not collection.areas or _corruption(runs[0].evaluate_settings):
        return None
    points, left_out = [], []
    for view, (kind, strength) in _corrupting(runs).items():
        try:
            _check_alike(runs, view)
            areas = _areas(collection, runs, view)
            ranking = loss_ranking(collection.areas, areas, sampling=collection.sampling)
        except RecordError as error:
            left_out.append(f"{view}: {error}")
            continue
        points.append(Point(kind, strength, view, ranking, _clean(collection)))
    if not points and not left_out:
        return None
    heads = [str(head) for head in collection.table["head"] if head in collection.areas]
    ordered = sorted(points, key=lambda point: (point.kind, point.strength, point.view))
    return Robustness(heads, ordered, left_out)


def _corruption(settings: Mapping[str, Any]) -> tuple[str, int] | None:
    """Kind and strength; None for clean images."""
    found = settings.get("corrupt")
    if not isinstance(found, Mapping):
        return None
    return str(found.get("kind")), int(found.get("strength", 0))


def _corrupting(runs: Sequence[RunRecord]) -> dict[str, tuple[str, int]]:
    """Views of any run that corrupt."""
    views = {name: view for run in runs for name, view in run.views.items()}
    found = {name: _corruption(view.settings) for name, view in views.items()}
    return {name: each for name, each in found.items() if each is not None}


def _check_alike(runs: Sequence[RunRecord], view: str) -> None:
    """Raises `RecordError` unless every run has the view, differing in its corruption alone."""
    first: ViewResult | None = None
    for run in runs:
        clean, found = run.view, run.views.get(view)
        if found is None or found.totals is None or clean is None:
            raise RecordError(f"{run.head_name} seed {run.seed} was not evaluated so")
        first = first or found
        if found.fingerprint != first.fingerprint:
            raise RecordError(f"{run.head_name} seed {run.seed} has another view of this name")
        pairs = ({**_rest(each.settings), "split": each.split} for each in (clean, found))
        one, other = pairs
        different = [key for key in {**one, **other} if one.get(key) != other.get(key)]
        if different:
            raise RecordError(f"it differs from {run.view_name} in {', '.join(different)} too")


def _rest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is neither corruption nor counting, less what is not set and old records lack."""
    kept = {key: value for key, value in settings.items() if key not in NO_PART}
    return {key: value for key, value in kept.items() if value is not None}


def _areas(
    collection: Collection, runs: Sequence[RunRecord], view: str
) -> dict[str, dict[int, Areas]]:
    areas: dict[str, dict[int, Areas]] = {}
    for run in runs:
        folder = collection.folders.get((run.head_name, run.seed))
        if folder is None:
            raise RecordError("its counts are not at hand")
        areas.setdefault(run.head_name, {})[run.seed] = areas_of(folder, run.seen(view))
    return areas


def _clean(collection: Collection) -> dict[str, float]:
    table = collection.table
    return dict(zip(map(str, table["head"]), map(float, table["miou"]), strict=True))
