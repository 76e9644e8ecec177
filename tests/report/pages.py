"""Comparisons for the report page, built in memory: scores per image, costs, losses, pictures."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from contextbench.records.attention import AttentionMap
from contextbench.records.classes import LabelInfo
from contextbench.records.counts import Areas, write_areas
from contextbench.records.examples import Examples
from contextbench.records.history import write_history
from contextbench.records.runs import RunRecord, cell_folder
from contextbench.records.stored import write_model
from contextbench.report.collection import Collection
from tests.report import records

IMAGES, PIXELS = 12, 1000  # of each class in each image


def areas(iou: Sequence[float], name: str) -> Areas:
    """Images around a score per class: P = L = `PIXELS`, so IoU = I / (2 * PIXELS - I)."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    around = np.array(iou) + 0.01 * generator.standard_normal((IMAGES, len(iou)))
    around = np.clip(around, 0, 1)
    correct = np.rint(2 * PIXELS * around / (1 + around)).astype(np.int64)
    labelled = np.full(correct.shape, PIXELS, dtype=np.int64)
    return Areas([f"{i:03}" for i in range(IMAGES)], correct, labelled, labelled)


def collection(
    heads: Sequence[str] = tuple(records.HEADS),
    seeds: Sequence[int] = (0, 1),
    *,
    names: Mapping[str, str] | None = None,
    labels: LabelInfo = records.LABELS,
    **changes: Any,
) -> Collection:
    """Heads of `records.HEADS`, called as in `names`, with everything that a page can show."""
    called = {head: (names or {}).get(head, head) for head in heads}
    counts = {
        name: {
            seed: areas(records.class_iou(head, seed)[: len(labels.classes)], f"{head}{seed}")
            for seed in seeds
        }
        for head, name in called.items()
    }
    runs = [
        records.run(name, seed, totals=each.totals(), labels=labels, images=IMAGES, **changes)
        for name, of_head in counts.items()
        for seed, each in of_head.items()
    ]
    losses, costs = records.histories(seeds), records.profile()
    return Collection(
        runs,
        costs.model_copy(update={"heads": {n: costs.heads[h] for h, n in called.items()}}),
        {name: losses[head] for head, name in called.items()},
        counts,
    )


def failed(whole: Collection, head: str, message: str = "loss is NaN") -> Collection:
    """The same where every run of one head failed."""
    runs = [_failed(run, message) if run.head_name == head else run for run in whole.runs]
    kept = {name: seeds for name, seeds in whole.areas.items() if name != head}
    return replace(whole, runs=runs, areas=kept)


def _failed(run: RunRecord, message: str) -> RunRecord:
    record = records.failed(run.head_name, run.seed)
    assert record.failure is not None
    failure = record.failure.model_copy(update={"message": message})
    return record.model_copy(update={"failure": failure, "labels": run.labels})


def examples(count: int = 2, size: tuple[int, int] = (48, 64)) -> Examples:
    """Those of `records`, with one map of every head and a vector of one head for each image."""
    shown = records.examples(count, size)
    values = np.linspace(-0.1, 1, 48, dtype=np.float32).reshape(6, 8)
    maps = [
        attention(head, name, values * (1 + n))
        for name in shown.names
        for n, head in enumerate(shown.predictions)
    ]
    weights = np.array([0.2, 0.7, 0.1], dtype=np.float32)
    vectors = [attention("ocr", name, weights, "regions", "abc") for name in shown.names]
    return replace(shown, attention=[*maps, *vectors])


def attention(
    head: str, image: str, values: Any, kind: str = "influence", labels: Sequence[str] = ()
) -> AttentionMap:
    """A map of pixel (20, 30) of an image of 48 x 64, in cell (2, 3) of 6 x 8."""
    return AttentionMap(head, kind, image, (20, 30), (2, 3), values, "What it is", labels)


def store(whole: Collection, out: Path) -> Path:
    """Write all records; the folder of the comparison."""
    for run in whole.runs:
        cell = cell_folder(out, run.protocol_name, run.head_name, run.seed)
        write_model(cell / "record.json", run)
        if run.totals is not None:
            write_areas(cell / "areas.npz", whole.areas[run.head_name][run.seed])
        write_history(cell / "history.jsonl", whole.histories[run.head_name][run.seed])
    folder = out / whole.runs[0].protocol_name
    if whole.profile is not None:
        write_model(folder / "profile.json", whole.profile)
    return folder
