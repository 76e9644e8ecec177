"""Which class is taken for which: the largest confusions of heads, and how two heads differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from contextbench.config.files import ConfigError
from contextbench.records.stored import IntArray
from contextbench.report.collection import Collection
from contextbench.report.counted import counted_areas
from contextbench.statistics.counted import confusion_ranking
from contextbench.statistics.draws import FloatArray
from contextbench.statistics.intervals import HeadStatistics, Interval, Ranking

TOP = 10  # confusions that are listed unless told otherwise
OTHERS = "other classes"  # those in no group


@dataclass(frozen=True)
class Confused:
    """Pixels of one class, or group of classes, that are predicted as another."""

    label: str
    prediction: str
    ranking: Ranking  # of the heads, by the share of the label's pixels; the largest first

    def of(self, head: str) -> HeadStatistics:
        """The share of a head, mean over seeds, with its interval over images."""
        return self.ranking.of(head)

    def difference(self, one: str, other: str) -> Interval:
        """Of the shares of two heads, over trainings and images."""
        return self.ranking.difference(one, other)


@dataclass(frozen=True)
class Confusion:
    """All confusions of heads, and the largest ones with intervals."""

    subject: str
    units: Sequence[str]  # classes, or groups of them
    pixels: Mapping[str, FloatArray]  # head -> (label, prediction), mean over seeds
    largest: Sequence[Confused]
    pairs: int  # of units that are confused at all

    @property
    def heads(self) -> list[str]:
        return list(self.pixels)

    @property
    def two(self) -> bool:
        """Whether it is about the difference of two heads."""
        return len(self.pixels) == 2

    def shares(self, head: str) -> FloatArray:
        """(label, prediction) share of the label's pixels; NaN for a unit without any."""
        return _shares(self.pixels[head])

    def p_value(self, confused: Confused) -> float:
        """Of the difference of two heads, times the number of all confusions (Bonferroni), since
        these were chosen among them; NaN without a verdict."""
        p = confused.ranking.pairs[0].p_value
        return p if math.isnan(p) else min(1.0, p * self.pairs)


def confusion_of(
    collection: Collection, *, heads: Sequence[str] = (), top: int = TOP, groups: bool = False
) -> Confusion:
    """Confusions of all heads, or of the named ones, largest share of a label's pixels first.

    Of two heads those come first whose shares differ most. `groups`: of the dataset's groups of
    classes in place of classes. Raises `UncountedError` for a view that did not count them,
    `ConfigError` for heads and groups that there are not.
    """
    areas, labels = counted_areas(collection, "confusion", heads), collection.labels
    if groups and not labels.groups:
        raise ConfigError(f"the dataset of {collection.subject} has no groups of classes")
    units, unit_of = _units(labels.classes, labels.groups if groups else {})
    totals = {
        head: [_merged(each.further["confusion"].total(), unit_of) for each in seeds.values()]
        for head, seeds in areas.items()
    }
    pixels: dict[str, FloatArray] = {
        head: np.mean(tables, axis=0) for head, tables in totals.items()
    }
    shares = np.nan_to_num(np.stack([_shares(table) for table in pixels.values()]))
    confused = (shares > 0).any(axis=0) & ~np.eye(len(units), dtype=bool)
    size = np.ptp(shares, axis=0) if len(areas) == 2 else shares.max(axis=0)
    found = [(int(label), int(guess)) for label, guess in np.argwhere(confused)]
    largest = sorted(found, key=lambda at: (-size[at], at))[:top]
    return Confusion(
        collection.subject,
        units,
        pixels,
        [
            Confused(
                units[label],
                units[guess],
                confusion_ranking(areas, unit_of, label, guess, sampling=collection.sampling),
            )
            for label, guess in largest
        ],
        len(found),
    )


def _units(
    classes: Sequence[str], groups: Mapping[str, Sequence[int]]
) -> tuple[list[str], list[int]]:
    """Names of what is confused, and the unit of each class: itself, or its first group."""
    if not groups:
        return list(classes), list(range(len(classes)))
    names = [*groups, OTHERS]
    unit_of = [
        next((n for n, members in enumerate(groups.values()) if k in members), len(groups))
        for k in range(len(classes))
    ]
    return (names if len(groups) in unit_of else names[:-1]), unit_of


def _merged(table: IntArray, unit_of: Sequence[int]) -> FloatArray:
    size = max(unit_of) + 1
    merged = np.zeros((size, size))
    np.add.at(merged, np.ix_(unit_of, unit_of), table)
    return merged


def _shares(table: FloatArray) -> FloatArray:
    labelled = table.sum(axis=1, keepdims=True)
    shares = np.full(table.shape, np.nan)
    np.divide(table, labelled, out=shares, where=labelled > 0)
    return shares
