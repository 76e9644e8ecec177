"""Synthetic records of a plausible comparison, built by hand so that every number is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contextbench.records.classes import ClassTotals, LabelInfo
from contextbench.records.examples import Examples
from contextbench.records.failures import Failure
from contextbench.records.profiles import HeadCost, ProfileRecord, ScopeCounts
from contextbench.records.runs import RunRecord, Status
from contextbench.records.views import from_version_1

CLASSES = [
    "background", "local_brick", "local_moss", "scene_a", "scene_b", "size_small", "size_large",
    "recall_striped", "recall_checked",
]  # fmt: skip
PALETTE = [
    (221, 221, 221), (213, 94, 0), (0, 110, 80), (0, 114, 178), (86, 180, 233), (230, 159, 0),
    (136, 34, 85), (204, 121, 167), (51, 34, 136),
]  # fmt: skip
GROUPS = {"local": [1, 2], "scene": [3, 4], "size": [5, 6], "recall": [7, 8]}
LABELS = LabelInfo(classes=CLASSES, palette=PALETTE, groups=GROUPS)
PROTOCOL: dict[str, Any] = {
    "name": "probe-small",
    "dataset": {"name": "probe", "root": None},
    "train": {"steps": 400, "crop": [192, 192]},
}
DEVICE = "Example CPU @ 2.50GHz, 2 threads"
PRECISION = {"dtype": "float32", "memory_format": "channels_last"}

# IoU of the groups above (after background), parameters, MACs, bytes, milliseconds
HEADS: dict[str, tuple[tuple[float, ...], int, int, int, float]] = {
    "fcn": ((0.97, 0.58, 0.80, 0.37), 1_400_000, 780_000_000, 21_000_000, 11.2),
    "ppm": ((0.97, 0.95, 0.86, 0.43), 1_650_000, 830_000_000, 23_000_000, 12.9),
    "aspp": ((0.96, 0.93, 0.88, 0.41), 2_100_000, 1_250_000_000, 29_000_000, 17.8),
    "ocnet": ((0.97, 0.95, 0.87, 0.52), 1_480_000, 1_020_000_000, 31_000_000, 15.1),
    "encnet": ((0.97, 0.95, 0.85, 0.44), 1_520_000, 800_000_000, 24_000_000, 12.6),
    "ocr": ((0.97, 0.96, 0.88, 0.47), 1_600_000, 910_000_000, 27_500_000, 13.4),
}


def totals_of(iou: Sequence[float], pixels: int = 10_000) -> ClassTotals:
    """Counts with P_k = L_k = pixels, so that IoU_k = I_k / (2 * pixels - I_k)."""
    intersection = [round(2 * pixels * value / (1 + value)) for value in iou]
    return ClassTotals(
        intersection=intersection, predicted=[pixels] * len(iou), labelled=[pixels] * len(iou)
    )


def run(
    head: str = "fcn",
    seed: int = 0,
    *,
    iou: Sequence[float] | None = None,
    totals: ClassTotals | None = None,
    status: Status = "done",
    failure: Failure | None = None,
    protocol: Mapping[str, Any] = PROTOCOL,
    fingerprint: str = "aaaa",
    dataset_fingerprint: str = "dddd",
    options: Mapping[str, Any] | None = None,
    labels: LabelInfo = LABELS,
    precision: Mapping[str, str] = PRECISION,
    device: str = DEVICE,
    train_seconds: float = 40.0,
    images: int | None = None,
) -> RunRecord:
    """A record; scores come from `iou` per class or from `totals`, and are missing without."""
    counts = totals_of(iou) if iou is not None else totals
    content = {
        "status": status,
        "failure": failure,
        "protocol": dict(protocol),
        "head": {"name": head, "head": head, "options": dict(options or {})},
        "seed": seed,
        "fingerprint": fingerprint,
        "dataset_fingerprint": dataset_fingerprint,
        "labels": labels,
        "precision": dict(precision),
        "environment": {"device": device, "commit": "0123456789ab"},
        "started": "2025-01-01T00:00:00+00:00",
        "finished": "2025-01-01T00:01:00+00:00",
        "steps": 400 if status == "done" else 120,
        "train_seconds": train_seconds,
        "evaluated_images": images,
        "totals": counts,
    }
    return RunRecord.model_validate(from_version_1(content))


def class_iou(head: str, seed: int) -> list[float]:
    """Background and two classes a group, a little apart between classes and seeds."""
    shift = 0.012 * (seed - 1) * (1 + len(head) % 3)
    groups = [value for value in HEADS[head][0] for _ in range(2)]
    signed = [value + (0.01 if k % 2 else -0.01) for k, value in enumerate(groups)]
    return [0.96, *(min(0.99, value + shift) for value in signed)]


def comparison(seeds: Sequence[int] = (0, 1, 2)) -> list[RunRecord]:
    """All heads, all seeds, all done."""
    return [run(head, seed, iou=class_iou(head, seed)) for head in HEADS for seed in seeds]


def failed(head: str, seed: int = 0, status: Status = "failed") -> RunRecord:
    """A run without scores."""
    return run(head, seed, status=status, failure=Failure(kind="LossError", message="loss is NaN"))


def cost(
    parameters: int,
    macs: int,
    memory: int,
    latency_ms: Sequence[float],
    *,
    uncounted: Sequence[str] = (),
) -> HeadCost:
    """Costs whose `context` scope is a tenth of the model."""
    return HeadCost(
        counts={
            "model": ScopeCounts(parameters=parameters, macs=macs, uncounted=list(uncounted)),
            "context": ScopeCounts(parameters=parameters // 10, macs=macs // 10),
        },
        inference_memory_bytes=memory,
        training_memory_bytes=6 * memory,
        latency_ms=list(latency_ms),
        train_latency_ms=[3 * sample for sample in latency_ms],
    )


def profile_of(heads: Mapping[str, HeadCost], **changes: Any) -> ProfileRecord:
    """A profile of the comparison's protocol on its device."""
    content: dict[str, Any] = {
        "protocol_name": "probe-small",
        "backbone": "resnet10",
        "input": "1x3x192x192",
        "training_input": "8x3x192x192",
        "scope": "model",
        "precision": PRECISION,
        "environment": {"device": DEVICE},
        "baseline": "fcn",
        "heads": dict(heads),
    }
    return ProfileRecord(**{**content, **changes})


def profile() -> ProfileRecord:
    """Every head, 20 rounds of latency with some noise upwards."""
    noise = 1 + 0.08 * np.abs(np.random.default_rng(0).standard_normal((len(HEADS), 20)))
    return profile_of(
        {
            name: cost(parameters, macs, memory, (latency * factors).tolist())
            for (name, (_, parameters, macs, memory, latency)), factors in zip(
                HEADS.items(), noise, strict=True
            )
        }
    )


def histories(seeds: Sequence[int] = (0,)) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """Falling, noisy losses, logged every fifth step."""
    generator = np.random.default_rng(1)
    steps = np.arange(5, 401, 5)
    curves: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for rank, head in enumerate(HEADS):
        curves[head] = {}
        for seed in seeds:
            loss = 0.25 + 0.05 * rank + 2 * np.exp(-steps / (60 + 8 * rank))
            loss = loss * np.exp(0.12 * generator.standard_normal(len(steps)))
            curves[head][seed] = [
                {"step": step, "lr": 0.01, "main": value, "loss": 1.4 * value}
                for step, value in zip(steps.tolist(), loss.tolist(), strict=True)
            ]
    return curves


def examples(count: int = 2, size: tuple[int, int] = (48, 64)) -> Examples:
    """Blocks of random classes, one corner ignored; later heads miss fewer blocks."""
    generator = np.random.default_rng(2)
    height, width = size
    images, truths = [], []
    predictions: dict[str, list[np.ndarray[Any, np.dtype[np.uint8]]]] = {head: [] for head in HEADS}
    for _ in range(count):
        blocks = generator.integers(0, len(CLASSES), (6, 8)).astype(np.uint8)
        truth = _enlarged(blocks, height, width)
        noise = generator.integers(-20, 21, (height, width, 3))
        colours = np.array(PALETTE, dtype=np.int64)[truth]
        images.append(np.clip(colours + noise, 0, 255).astype(np.uint8))
        truths.append(np.where(np.indices(truth.shape).sum(0) < 20, np.uint8(255), truth))
        for rank, maps in enumerate(predictions.values()):
            wrong = generator.random(blocks.shape) < 0.4 - 0.05 * rank
            other = (blocks + 1) % len(CLASSES)
            maps.append(_enlarged(np.where(wrong, other, blocks).astype(np.uint8), height, width))
    return Examples([f"{i:04d}" for i in range(count)], images, truths, predictions)


def _enlarged(
    blocks: np.ndarray[Any, np.dtype[np.uint8]], height: int, width: int
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rows, columns = blocks.shape
    return np.kron(blocks, np.ones((height // rows, width // columns), dtype=np.uint8))
