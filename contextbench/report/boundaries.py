"""mIoU near boundaries, and how sure heads are: rankings of what a view counted, band by band."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from contextbench.records.counters import CounterName, counting_of
from contextbench.report.collection import Collection
from contextbench.report.counted import counted_areas
from contextbench.statistics.counted import (
    AreasOfHeads,
    band_ranking,
    bin_totals,
    calibration_ranking,
)
from contextbench.statistics.draws import FloatArray
from contextbench.statistics.intervals import Ranking


@dataclass(frozen=True)
class Bands:
    """Heads by mIoU within each band, narrow bands first but for the share of the diagonal."""

    rankings: Mapping[str, Ranking]  # name of the band -> heads
    widths: tuple[int, ...]  # pixels, of a trimap


@dataclass(frozen=True)
class Calibration:
    """Heads by 1 - ECE, and what their confidences are worth."""

    ranking: Ranking
    totals: Mapping[str, FloatArray]  # head -> (3, bins): right pixels, pixels, confidence

    def overconfidence(self, head: str) -> float:
        """Mean confidence less accuracy, over all seeds."""
        right, pixels, confidence = self.totals[head].sum(axis=1)
        return float((confidence - right) / pixels) if pixels else float("nan")


def boundary_bands(collection: Collection) -> Bands:
    """Boundary IoU. Raises `UncountedError` for a view that did not count it."""
    areas = counted_areas(collection, "boundary")
    config = counting_of(collection.runs[0].evaluate_settings).boundary
    names = config.names if config is not None else ()
    return Bands(_rankings(collection, areas, "boundary", names), ())


def trimap_bands(collection: Collection) -> Bands:
    """mIoU of all pixels so near to a boundary of labels. Raises as `boundary_bands` does."""
    areas = counted_areas(collection, "trimap")
    widths = counting_of(collection.runs[0].evaluate_settings).trimap
    names = tuple(f"{width} px" for width in widths)
    return Bands(_rankings(collection, areas, "trimap", names), widths)


def calibration_of(collection: Collection) -> Calibration:
    """Raises as `boundary_bands` does."""
    areas = counted_areas(collection, "calibration")
    totals: dict[str, FloatArray] = {
        head: np.sum([bin_totals(each) for each in seeds.values()], axis=0)
        for head, seeds in areas.items()
    }
    return Calibration(calibration_ranking(areas, sampling=collection.sampling), totals)


def _rankings(
    collection: Collection,
    areas: AreasOfHeads,
    counter: CounterName,
    names: tuple[str, ...],
) -> dict[str, Ranking]:
    return {
        name: band_ranking(areas, counter, band, sampling=collection.sampling)
        for band, name in enumerate(names)
    }
