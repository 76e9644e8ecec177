"""Pixel counts of every image of an evaluation, and their file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contextbench.records.classes import ClassTotals
from contextbench.records.counters import (
    CHECKS,
    PARTS,
    CounterName,
    Counts,
    Pixels,
    Shape,
    Sparse,
    check,
    counting_of,
    wanted,
)
from contextbench.records.runs import RunRecord
from contextbench.records.stored import MOST_PIXELS, IntArray, RecordError
from contextbench.system.files import write_atomic
from contextbench.system.npz import read_arrays
from contextbench.system.reading import check_plain, given, why

ARRAYS = ("image", "intersection", "predicted", "labelled")  # arrays of an `areas.npz`


@dataclass(frozen=True)
class Areas:
    """Per-image pixel counts of one evaluation; `names` in the order of the rows.

    `elsewhere`: of a model that was imported. No statistics take it for a training of its method.
    """

    names: list[str]
    intersection: IntArray  # (images, K)
    predicted: IntArray
    labelled: IntArray
    further: Counts = field(
        default_factory=dict, kw_only=True
    )  # what the view counted beside these
    elsewhere: bool = field(default=False, kw_only=True)

    def totals(self) -> ClassTotals:
        """Sums over the images."""
        return ClassTotals(
            intersection=self.intersection.sum(0).tolist(),
            predicted=self.predicted.sum(0).tolist(),
            labelled=self.labelled.sum(0).tolist(),
        )


def write_areas(path: Path, areas: Areas) -> None:
    """Write per-image counts as a compressed npz."""
    arrays = {
        "image": np.array(areas.names),
        "intersection": areas.intersection,
        "predicted": areas.predicted,
        "labelled": areas.labelled,
    }
    for name, counted in areas.further.items():
        arrays |= dict(zip(_parts(name), (counted.places, counted.values), strict=True))
    write_atomic(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))


def read_areas(path: Path, run: RunRecord | None = None) -> Areas:
    """Read per-image counts, which are those of `run` in its view where it is given.

    What the view counted beside them is read with them, and is nothing without `run`.
    Raises `RecordError` where they are missing, corrupt, impossible or those of another run.
    """
    try:
        shapes = {} if run is None else _counted_by(run)
        every = (*ARRAYS, *(part for name in shapes for part in _parts(name)))
        names, *arrays = read_arrays(path, every, partial(_check_shapes, run=run))
        counts, further = arrays[: len(ARRAYS) - 1], arrays[len(ARRAYS) - 1 :]
        imported = run is not None and run.imported is not None
        areas = Areas(_image_names(names), *counts, elsewhere=imported)
        _check_areas(areas)
        areas = replace(areas, further=_further(shapes, further, areas))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read: {why(error)}") from error
    if run is not None and areas.totals() != run.totals:
        raise RecordError(f"{path}: the counts do not add up to those of record.json")
    return areas


def areas_of(folder: Path, run: RunRecord) -> Areas:
    """Counts of the view that `run` is seen in, from its folder. Raises as `read_areas` does."""
    return read_areas(folder / run.counts_file, run)


def _parts(name: CounterName) -> list[str]:
    """What the arrays of a counter are called in a file."""
    return [f"{name}{part}" for part in PARTS]


def _counted_by(run: RunRecord) -> dict[CounterName, Shape]:
    """What the view counted that `run` is seen in. Raises ValueError as `counting_of` does."""
    return wanted(counting_of(run.evaluate_settings), len(run.labels.classes))


def _further(
    shapes: Mapping[CounterName, Shape], arrays: Sequence[IntArray], areas: Areas
) -> Counts:
    """Raises ValueError for counts that do not belong to `areas`."""
    pixels = Pixels(areas.intersection, areas.predicted, areas.labelled)
    found: dict[CounterName, Sparse] = {}
    pairs = zip(arrays[::2], arrays[1::2], strict=True)
    for (name, shape), (places, values) in zip(shapes.items(), pairs, strict=True):
        found[name] = Sparse((len(areas.names), *shape), places, values)
        check(name, found[name], pixels)
    return found


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], run: RunRecord | None) -> None:
    """Raises ValueError unless all are of the same images and classes, those of `run`."""
    images, *counts = (shapes[name] for name in ARRAYS)
    if len(set(counts)) != 1 or len(counts[0]) != 2 or images != counts[0][:1]:
        raise ValueError(f"not one (images, classes) shape: {sorted(set(counts))} of {images}")
    for name in CHECKS:
        own = [shapes[part] for part in _parts(name) if part in shapes]
        if len(set(own)) > 1 or any(len(shape) != 1 for shape in own):
            raise ValueError(f"{name}: its places and values are not of one length: {own}")
    expected = None if run is None else (run.evaluated_images, len(run.labels.classes))
    if expected is not None and counts[0] != expected and expected[0] is not None:
        raise ValueError(f"its counts are {counts[0]}, images and classes of the run {expected}")


def _image_names(names: npt.NDArray[Any]) -> list[str]:
    if names.dtype.kind != "U":
        raise ValueError(f"the names of images must be text, not {names.dtype}")
    found: list[str] = names.tolist()
    check_plain(found)
    return found


def _check_areas(areas: Areas) -> None:
    """Raises ValueError for counts that no prediction of any image has."""
    counts = (areas.intersection, areas.predicted, areas.labelled)
    if any(array.dtype != np.int64 for array in counts):
        raise ValueError("counts must be int64")
    if max(float(array.sum(dtype=np.float64)) for array in counts) > MOST_PIXELS:
        raise ValueError(f"there are more than {MOST_PIXELS} pixels")
    correct, predicted, labelled = counts
    wrong = (correct < 0) | (correct > predicted) | (correct > labelled)
    impossible = wrong.any(axis=1) | (predicted.sum(axis=1) != labelled.sum(axis=1))
    if impossible.any():
        name = areas.names[int(impossible.argmax())]
        raise ValueError(f"the counts of image {given(name)} are impossible")
