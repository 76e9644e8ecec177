"""A ranking with round numbers, and folders of records whose images can be resampled."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contextbench.records.classes import LabelInfo
from contextbench.records.counts import Areas, write_areas
from contextbench.records.runs import RunRecord, cell_folder
from contextbench.records.stored import write_model
from contextbench.report.collection import Collection, collect
from contextbench.statistics.intervals import (
    HeadStatistics,
    Interval,
    ModelsTest,
    PairStatistics,
    Ranking,
    Resampling,
    SeedSpread,
)
from contextbench.statistics.methods import Parts
from tests.report.records import run

TWO = LabelInfo(classes=["road", "sky"], palette=[(0, 0, 0), (9, 9, 9)])
PIXELS = 100  # of each class in each image


def pair(first: str, second: str, difference: Interval, p: float, smallest: float):
    return PairStatistics(
        first=first,
        second=second,
        difference=difference,
        p_value=p / 3,
        holm_p_value=p,
        separated=p < 0.05,
        smallest_difference=smallest,
        seed_wins=9,
        seed_pairs=9,
        models=ModelsTest(difference, p / 6, p / 2, p < 0.05, smallest / 2),
        parts=Parts((0.01, 0.01), (3, 3), 0.005, 7),
    )


def head(name: str, miou: Interval, groups: str) -> HeadStatistics:
    seeds = SeedSpread(tuple(miou.estimate + shift for shift in (-0.01, 0.0, 0.01)))
    return HeadStatistics(name, miou, seeds, groups, (1.0, 0.0, 0.0), groups)


RANKING = Ranking(
    heads=(
        head("ocr", Interval(0.80, 0.78, 0.82), "a"),
        head("ppm", Interval(0.79, 0.76, 0.81), "ab"),
        head("fcn", Interval(0.70, 0.68, 0.73), "b"),
    ),
    pairs=(
        pair("ocr", "ppm", Interval(0.01, -0.02, 0.03), 0.4, 0.02),
        pair("ocr", "fcn", Interval(0.10, 0.08, 0.12), 0.0004, 0.03),
        pair("ppm", "fcn", Interval(0.09, 0.07, 0.11), 0.2, 0.07),
    ),
    images=50,
    block=7,
    resampling=Resampling(1000),
    missing_classes={},
)
SCORES = {"ocr": 0.80, "ppm": 0.79, "fcn": 0.70}


def ranked_runs() -> list[RunRecord]:
    """The heads of `RANKING` with one seed each."""
    return [run(name, iou=[score] * 9) for name, score in SCORES.items()]


def areas(iou: float, images: int = 24, classes: int = 2) -> Areas:
    """Images around a score: P = L = `PIXELS`, so IoU = I / (2 * PIXELS - I)."""
    around = np.clip(iou + 0.02 * np.sin(np.arange(images * classes)), 0, 1)
    correct = np.rint(2 * PIXELS * around / (1 + around)).astype(np.int64)
    labelled = np.full((images, classes), PIXELS, dtype=np.int64)
    names = [f"{i:03}" for i in range(images)]
    return Areas(names, correct.reshape(images, classes), labelled, labelled)


def store(
    out: Path, head: str, seed: int, counts: Areas, *, labels: LabelInfo = TWO, **changes: Any
) -> Path:
    """A finished cell below `out`, with its areas; the cell's folder."""
    record = run(head, seed, totals=counts.totals(), labels=labels, **changes)
    folder = cell_folder(out, record.protocol_name, head, seed)
    write_model(folder / "record.json", record)
    write_areas(folder / "areas.npz", counts)
    return folder


def collected(out: Path, scores: Mapping[str, Sequence[float]]) -> Collection:
    """Heads with a score for each seed, written below `out` and read again."""
    for name, seeds in scores.items():
        for seed, score in enumerate(seeds):
            store(out, name, seed, areas(score))
    return collect(out)
