"""Comparisons whose view counted everything, drawn from confusions that are known."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contextbench.config.evaluation import EvaluateConfig
from contextbench.records.classes import LabelInfo
from contextbench.records.counters import BINS, CONFIDENCE, CounterName, Sparse, wanted
from contextbench.records.counts import Areas, write_areas
from contextbench.records.runs import RunRecord, cell_folder
from contextbench.records.stored import write_model
from contextbench.records.views import ViewResult, counts_file
from contextbench.report.collection import Collection
from tests.report import records

SETTINGS: dict[str, Any] = {
    "confusion": True,
    "calibration": True,
    "boundary": {"diagonal": 0.02, "pixels": [3]},
    "trimap": [1, 2, 4],
}
CONFIG = EvaluateConfig.model_validate(SETTINGS)
CLASSES = ("road", "rail", "tree", "sky")
LABELS = LabelInfo(
    classes=list(CLASSES),
    palette=[(0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)],
    groups={"ground": [0, 1], "above": [2]},
)
IMAGES, PIXELS = 24, 400
# head -> share of rail's pixels that it takes for road
SHARES = {"fcn": 0.5, "ppm": 0.2, "ocr": 0.1}


def tables(head: str, seed: int, rail: float) -> NDArray[np.int64]:
    """(images, K, K): 400 pixels of each class in each image."""
    generator = np.random.default_rng([zlib.crc32(head.encode()), seed])
    rates = np.full((4, 4), 0.02) + np.eye(4) * 0.92
    rates[1] = (rail, 0.96 - rail, 0.02, 0.02)
    drawn = [[generator.multinomial(PIXELS, row) for row in rates] for _ in range(IMAGES)]
    return np.array(drawn)


def sparse(dense: NDArray[np.int64]) -> Sparse:
    flat = dense.ravel()
    places = np.flatnonzero(flat)
    return Sparse(dense.shape, places, flat[places])


def areas(head: str, seed: int, rail: float | None = None) -> Areas:
    """Everything agrees with `tables`: bands hold halves of all, confidence is a tenth too high."""
    table = tables(head, seed, SHARES[head] if rail is None else rail)
    whole = np.stack([table.diagonal(axis1=1, axis2=2), table.sum(axis=1), table.sum(axis=2)], 1)
    right, number = whole[:, 0].sum(axis=1), whole[:, 2].sum(axis=1)
    calibration = np.zeros((IMAGES, 3, BINS), np.int64)
    calibration[:, 0, -1], calibration[:, 1, -1] = right, number
    calibration[:, 2, -1] = number * int(0.95 * CONFIDENCE)
    trimap = np.stack([table // share for share in (8, 4, 2)], axis=1)
    bands = [trimap.diagonal(axis1=2, axis2=3), trimap.sum(axis=2), trimap.sum(axis=3)]
    further: dict[CounterName, Sparse] = {
        "confusion": sparse(table),
        "calibration": sparse(calibration),
        "boundary": sparse(np.stack([whole // 4, whole // 2], axis=1)),
        "trimap": sparse(np.stack(bands, axis=2)),
    }
    assert {n: s.shape[1:] for n, s in further.items()} == wanted(CONFIG, 4)
    return Areas([f"{i:03}" for i in range(IMAGES)], *whole.transpose(1, 0, 2), further=further)


def record(head: str, seed: int, views: Mapping[str, tuple[Areas, Mapping[str, Any]]]) -> RunRecord:
    """A run in views of these counts and settings, of which the first is the protocol's."""
    first = next(iter(views.values()))[0]
    run = records.run(head, seed, totals=first.totals(), labels=LABELS, images=IMAGES)
    results = {
        name: ViewResult(
            settings=dict(settings), split="val", fingerprint=f"of {name}",
            dataset_fingerprint="d", evaluated_images=IMAGES, totals=counts.totals(),
        )
        for name, (counts, settings) in views.items()
    }  # fmt: skip
    protocol = {
        **run.protocol,
        "evaluate": {next(iter(views)): dict(next(iter(views.values()))[1])},
    }
    return run.model_copy(update={"views": results, "protocol": protocol})


def collection(
    heads: Sequence[str] = tuple(SHARES), seeds: Sequence[int] = (0, 1, 2)
) -> Collection:
    """Everything in one view."""
    counts = {head: {seed: areas(head, seed) for seed in seeds} for head in heads}
    runs = [
        record(head, seed, {"single": (each, SETTINGS)})
        for head, own in counts.items()
        for seed, each in own.items()
    ]
    return Collection(runs, areas=counts)


def store(
    out: Path, head: str, seed: int, views: Mapping[str, tuple[Areas, Mapping[str, Any]]]
) -> RunRecord:
    """Write a run and its counts."""
    run = record(head, seed, views)
    folder = cell_folder(out, run.protocol_name, head, seed)
    write_model(folder / "record.json", run)
    for name, (counts, _) in views.items():
        path = folder / counts_file(name, run.first_view)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_areas(path, counts)
    return run
