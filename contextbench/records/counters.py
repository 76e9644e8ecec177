"""What a view counts beside the pixels of its classes: an array of integers for each image.

    confusion    (K, K)      labelled pixels of class row, predicted as class column
    calibration  (3, 15)     right pixels, pixels and sum of confidences, by confidence
    boundary     (B, 3, K)   right, predicted and labelled pixels within band b of their own masks
    trimap       (W, 3, K)   the same of all pixels within so many pixels of a boundary of labels

A confidence is a whole number of `CONFIDENCE` parts, so that sums are exact and in any order the
same. All arrays are kept, and stored, as the places and values of what is not zero: of 150 x 150
pairs of classes an image has a few hundred.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import ValidationError

from contextbench.config.evaluation import COUNTING, EvaluateConfig
from contextbench.records.stored import MOST_PIXELS, IntArray
from contextbench.system.reading import why

CounterName = Literal["confusion", "calibration", "boundary", "trimap"]
Shape = tuple[int, ...]

BINS = 15  # of confidence, of equal width
CONFIDENCE = 2**20  # parts of a confidence of 1

PARTS = (".places", ".values")
"""Endings of the two arrays that a file has of a counter."""


@dataclass(frozen=True, eq=False)
class Sparse:
    """Integers (images, *shape of one image), as the places and values of what is not zero."""

    shape: Shape  # images first
    places: IntArray  # in the flattened array, ascending
    values: IntArray

    @classmethod
    def stacked(cls, shape: Shape, images: Sequence[tuple[IntArray, IntArray]]) -> "Sparse":
        """Of the places and values of each image, whose shape is `shape`."""
        size = prod(shape)
        places = [own + row * size for row, (own, _) in enumerate(images)]
        return cls(
            (len(images), *shape),
            np.concatenate([np.zeros(0, np.int64), *places]),
            np.concatenate([np.zeros(0, np.int64), *(values for _, values in images)]),
        )

    @classmethod
    def interleaved(cls, shards: Sequence["Sparse"]) -> "Sparse":
        """Rows of shard r as rows r, r + W, ... of W shards."""
        size = prod(shards[0].shape[1:])
        moved = [
            ((each.places // size) * len(shards) + rank) * size + each.places % size
            for rank, each in enumerate(shards)
        ]
        places = np.concatenate(moved)
        order = np.argsort(places, kind="stable")
        values = np.concatenate([each.values for each in shards])
        images = sum(each.shape[0] for each in shards)
        return cls((images, *shards[0].shape[1:]), places[order], values[order])

    @property
    def images(self) -> IntArray:
        """The image of each place."""
        return self.places // prod(self.shape[1:])

    @property
    def inner(self) -> IntArray:
        """Each place within its image."""
        return self.places % prod(self.shape[1:])

    def total(self) -> IntArray:
        """Sum over the images: of the shape of one."""
        summed = np.zeros(prod(self.shape[1:]), np.int64)
        np.add.at(summed, self.inner, self.values)
        return summed.reshape(self.shape[1:])

    def dense(self) -> IntArray:
        """All of it, which of large K takes memory: see `merged`."""
        flat = np.zeros(prod(self.shape), np.int64)
        flat[self.places] = self.values
        return flat.reshape(self.shape)

    def at(self, places: IntArray) -> IntArray:
        """Values at places of the flattened array."""
        found = np.searchsorted(self.places, places).clip(max=max(0, len(self.places) - 1))
        if not len(self.places):
            return np.zeros_like(places)
        return np.where(self.places[found] == places, self.values[found], 0)

    def merged(self, target: Callable[[IntArray], IntArray], size: int) -> IntArray:
        """(images, size): sums of the places of an image that have the same target; -1: none."""
        own = target(self.inner)
        summed = np.zeros(self.shape[0] * size, np.int64)
        kept = own >= 0
        np.add.at(summed, self.images[kept] * size + own[kept], self.values[kept])
        return summed.reshape(self.shape[0], size)


class Pixels(NamedTuple):
    """Right, predicted and labelled pixels (images, K), which counters must agree with."""

    intersection: IntArray
    predicted: IntArray
    labelled: IntArray


Counts = Mapping[CounterName, Sparse]


def wanted(config: EvaluateConfig, classes: int) -> dict[CounterName, Shape]:
    """What a view with these settings counts, with the shape of one image."""
    shapes: dict[CounterName, Shape] = {}
    if config.confusion:
        shapes["confusion"] = (classes, classes)
    if config.calibration:
        shapes["calibration"] = (3, BINS)
    if config.boundary is not None:
        shapes["boundary"] = (len(config.boundary.names), 3, classes)
    if config.trimap:
        shapes["trimap"] = (len(config.trimap), 3, classes)
    return shapes


def counting_of(settings: Mapping[str, Any]) -> EvaluateConfig:
    """What recorded settings say of counters; nothing in records of before there were any.

    Raises ValueError for what they cannot say.
    """
    said = {name: settings[name] for name in COUNTING if name in settings}
    try:
        return EvaluateConfig.model_validate(said)
    except ValidationError as error:
        raise ValueError(f"its settings: {why(error)}") from None


def check(name: CounterName, counted: Sparse, pixels: Pixels) -> None:
    """Raises ValueError for counts that do not belong to any prediction with these pixels."""
    places, values = counted.places, counted.values
    if places.dtype != np.int64 or values.dtype != np.int64:
        raise ValueError(f"{name}: counts must be int64")
    # All of them, before their differences, which would overflow between places far outside.
    inside = ((places >= 0) & (places < prod(counted.shape))).all()
    if not inside or (np.diff(places) <= 0).any() or (values <= 0).any():
        raise ValueError(f"{name}: its places are not those of an array {counted.shape}")
    if float(values.sum(dtype=np.float64)) > MOST_PIXELS:
        raise ValueError(f"{name}: its counts are beyond {MOST_PIXELS}")
    if not CHECKS[name](counted, pixels):
        raise ValueError(f"{name} does not agree with the pixels of the classes")


def _confusion_agrees(counted: Sparse, pixels: Pixels) -> bool:
    k = counted.shape[-1]
    return (
        np.array_equal(counted.merged(lambda at: at % k, k), pixels.predicted)
        and np.array_equal(counted.merged(lambda at: at // k, k), pixels.labelled)
        and np.array_equal(
            counted.merged(lambda at: np.where(at % k == at // k, at % k, -1), k),
            pixels.intersection,
        )
    )


def _calibration_agrees(counted: Sparse, pixels: Pixels) -> bool:
    right, number, confidence = np.moveaxis(counted.dense(), 1, 0)  # each (images, BINS)
    edges = -(-np.arange(BINS + 1) * CONFIDENCE // BINS)
    highest = np.append(edges[1:-1] - 1, CONFIDENCE)
    # In float64, which does not overflow, and is exact up to 2^53.
    low, high = number * edges[:-1].astype(float), number * highest.astype(float)
    return bool(
        (right <= number).all()
        and ((low <= confidence) & (confidence <= high)).all()
        and np.array_equal(right.sum(axis=1), pixels.intersection.sum(axis=1))
        and np.array_equal(number.sum(axis=1), pixels.labelled.sum(axis=1))
    )


def _bands_agree(counted: Sparse, pixels: Pixels) -> bool:
    k = counted.shape[-1]
    kind, train_id = counted.inner // k % 3, counted.inner % k
    whole = np.select([kind == n for n in range(3)], [p[counted.images, train_id] for p in pixels])
    right, number = counted.places[kind == 0], counted.values[kind == 0]
    fits = all((number <= counted.at(right + k * n)).all() for n in (1, 2))
    return bool(fits and (counted.values <= whole).all())


def _trimap_agrees(counted: Sparse, pixels: Pixels) -> bool:
    _, widths, _, k = counted.shape
    pixels_in = counted.merged(lambda at: at // k, 3 * widths).reshape(-1, widths, 3)
    inner = counted.inner // (3 * k) < widths - 1  # those of all but the widest
    wider = counted.at(counted.places[inner] + 3 * k)
    return bool(
        _bands_agree(counted, pixels)
        and np.array_equal(pixels_in[:, :, 1], pixels_in[:, :, 2])  # a labelled pixel is predicted
        and (counted.values[inner] <= wider).all()
    )


CHECKS: dict[CounterName, Callable[[Sparse, Pixels], bool]] = {
    "confusion": _confusion_agrees,
    "calibration": _calibration_agrees,
    "boundary": _bands_agree,
    "trimap": _trimap_agrees,
}
