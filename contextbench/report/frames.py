"""Results for programs: a table of a comparison, its counts per image, a ranking. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from contextbench.config.files import ConfigError, validated
from contextbench.config.sampling import INDEPENDENT, Sampling
from contextbench.records.counts import Areas
from contextbench.records.stored import RecordError
from contextbench.report.collection import Collection, collect
from contextbench.statistics import intervals
from contextbench.statistics.draws import Resampling
from contextbench.statistics.intervals import Ranking
from contextbench.statistics.values import rank_values, read_values

COUNTS = ("intersection", "predicted", "labelled")


@dataclass(frozen=True)
class ImageCounts(Mapping[str, Mapping[int, Areas]]):
    """Pixel counts per image of the runs of one protocol: head -> seed -> counts.

    Each has `names` of the images and `intersection`, `predicted`, `labelled` (images, K), int64.
    `sampling` says which images belong together, which intervals depend on.
    """

    heads: Mapping[str, Mapping[int, Areas]]
    classes: tuple[str, ...]
    sampling: Sampling = INDEPENDENT

    def __getitem__(self, head: str) -> Mapping[int, Areas]:
        return self.heads[head]

    def __iter__(self) -> Iterator[str]:
        return iter(self.heads)

    def __len__(self) -> int:
        return len(self.heads)

    def frame(self) -> pd.DataFrame:
        """One row a head, seed, image and class: those four columns, then the three counts."""
        parts = [
            _long(areas, self.classes).assign(head=head, seed=seed)
            for head, seeds in self.heads.items()
            for seed, areas in seeds.items()
        ]
        return pd.concat(parts, ignore_index=True)[["head", "seed", "image", "class", *COUNTS]]


def read_results(folder: str | Path, *, view: str | None = None) -> pd.DataFrame:
    """The comparison of the runs below `folder`, one row a head, best mIoU first.

    Scores are those of `view`, the first unless named. Base units and fractions; the columns are
    those of `table.csv`. What limits the comparison is in `.attrs["notes"]`, one sentence each.
    Raises `RecordError` where there are no runs or one cannot be read, `ConfigError` for a view
    that no run has, `MixedProtocolsError` for runs that do not measure the same thing.
    """
    return results_frame(collect(Path(folder), view))


def results_frame(collection: Collection) -> pd.DataFrame:
    """As `read_results`, of runs that are read already."""
    table = collection.table.copy()
    table.attrs["notes"] = list(collection.notes)
    return table


def read_counts(folder: str | Path, *, view: str | None = None) -> ImageCounts:
    """The counts per image of all runs below `folder` that were evaluated in `view`.

    Raises as `read_results` does, and `RecordError` where an evaluated run has no usable counts.
    """
    collection = collect(Path(folder), view)
    scored = [run for run in collection.runs if run.totals is not None]
    if not scored:
        raise RecordError(f"{folder}: no run below this folder was evaluated")
    for run in scored:
        if run.seed not in collection.areas.get(run.head_name, {}):
            reasons = "; ".join(collection.warnings)
            raise RecordError(f"{folder}: a run has no counts per image: {reasons}")
    classes = tuple(collection.runs[0].labels.classes)
    return ImageCounts(collection.areas, classes, collection.sampling)


def rank(
    results: str | Path | pd.DataFrame | Mapping[str, Mapping[int, Areas]],
    *,
    frames: str | None = None,
    cluster: str | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Ranking:
    """Rank heads by images that are drawn again; docs/statistics.md says what all of it means.

    `results` are counts (a folder of runs, what `read_counts` gives, or head -> seed -> counts), or
    values per image: a CSV file or a table with the columns `head`, `image`, `value` and, if there
    are several, `seed`; the score is then the mean of the values. `frames="ordered"` or `cluster`,
    a regular expression, say which images belong together, unless runs have declared it.
    Raises `RecordError` for heads that are not of the same images, `ConfigError` for settings.
    """
    given = {name: value for name, value in (("frames", frames), ("cluster", cluster)) if value}
    declared = validated(Sampling, given, "rank") if given else None
    try:
        resampling = Resampling(resamples, level, seed)
    except ValueError as error:
        raise ConfigError(f"rank: {error}") from error
    source = "the values"
    if isinstance(results, str | Path):
        source, path = str(results), Path(results)
        results = read_counts(path) if path.is_dir() else read_values(path)
    if isinstance(results, pd.DataFrame):
        chosen = declared or INDEPENDENT
        return rank_values(results, source, sampling=chosen, resampling=resampling)
    own = results.sampling if isinstance(results, ImageCounts) else INDEPENDENT
    return intervals.rank(results, sampling=declared or own, resampling=resampling)


def _long(areas: Areas, classes: tuple[str, ...]) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "image": [name for name in areas.names for _ in classes],
        "class": list(classes) * len(areas.names),
    }
    return pd.DataFrame({**columns, **{name: getattr(areas, name).ravel() for name in COUNTS}})
