"""Counts per image of several runs, row by row of the same images, and scores of weighted sums.

Axes: S seeds, N images, K classes; counts are (S, 3, N, K): intersection, predicted, labelled.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from contextbench.records.counts import Areas
from contextbench.records.stored import IntArray, RecordError
from contextbench.statistics.draws import FloatArray
from contextbench.statistics.scores import Measure, class_iou, mean_of_present


def pixels(areas: Areas) -> IntArray:
    """(3, N, K): intersection, predicted and labelled pixels."""
    return np.stack([areas.intersection, areas.predicted, areas.labelled])


def aligned(
    areas: Mapping[str, Mapping[int, Areas]],
    classes: Sequence[int] | None,
    *,
    counts: Callable[[Areas], IntArray] = pixels,
) -> dict[str, FloatArray]:
    """head -> counts (S, 3, N, K) in order of seed, images in order of name.

    `areas`: head -> seed -> counts per image. `classes`: the train ids to keep, all if None.
    `counts` takes others (parts, N, items) from each.
    Raises `RecordError` unless all are of the same images and classes, and there are some.
    """
    every = [
        (head, seed, each) for head, seeds in areas.items() for seed, each in sorted(seeds.items())
    ]
    if not every or not every[0][2].names:
        raise RecordError("there are no counts per image to resample")
    first_head, first_seed, first = every[0]
    chosen = slice(None) if classes is None else _chosen(classes, first.labelled.shape[1])
    rows_by_name: dict[str, list[FloatArray]] = {}
    for head, seed, each in every:
        if mismatch := _mismatch(each, first):
            raise RecordError(
                f"{head} seed {seed} and {first_head} seed {first_seed} were not evaluated on the "
                f"same images and classes, so that their difference has no interval: {mismatch}"
            )
        rows = np.argsort(each.names)
        stacked = counts(each)
        rows_by_name.setdefault(head, []).append(stacked[:, rows][..., chosen].astype(np.float64))
    return {head: np.stack(seeds) for head, seeds in rows_by_name.items()}


def trained_elsewhere(areas: Mapping[str, Mapping[int, Areas]]) -> frozenset[str]:
    """Heads of which some model was imported: nothing can be said of them as methods."""
    return frozenset(
        head for head, seeds in areas.items() if any(each.elsewhere for each in seeds.values())
    )


def iou_of_draws(
    weights: FloatArray, seeds: FloatArray, measure: Measure = class_iou
) -> FloatArray:
    """IoU (S, draws, K) of counts (S, 3, N, K) whose images are weighted by (draws, N).

    NaN for a class that no drawn image is labelled with. Sums of whole numbers are exact in float64
    up to 2^53. Another `measure` of the sums takes the place of IoU where it is given.
    """
    sums = np.tensordot(weights, seeds, axes=(1, 2))  # (draws, S, 3, K), as one matrix product
    return measure(*sums.transpose(2, 1, 0, 3))  # each (S, draws, K)


def effects_on(measure: Measure, seeds: FloatArray) -> FloatArray:
    """(images,): what each image changes of a score, mean over seeds: with it less without it."""
    whole = seeds.sum(axis=2, keepdims=True)  # (S, 3, 1, K)
    scored, without = (
        mean_of_present(measure(*np.moveaxis(sums, 1, 0))) for sums in (whole, whole - seeds)
    )
    mean: FloatArray = np.nan_to_num(scored - without).mean(axis=0)
    return mean


def effects(seeds: FloatArray) -> FloatArray:
    """(images,): the first-order effect of each image on mIoU, mean over seeds.

    With I and U the sums over images, it is the mean over labelled classes of (I_i - IoU U_i) / U.
    """
    correct, predicted, labelled = np.moveaxis(seeds, 1, 0)  # each (seeds, images, classes)
    union = predicted + labelled - correct
    total = union.sum(axis=1, keepdims=True)
    present = labelled.sum(axis=1, keepdims=True) > 0
    iou = np.divide(
        correct.sum(axis=1, keepdims=True), total, out=np.zeros_like(total), where=present
    )
    effect = np.divide(correct - iou * union, total, out=np.zeros_like(union), where=present)
    mean: FloatArray = (effect.sum(axis=2) / present.sum(axis=2).clip(1)).mean(axis=0)
    return mean


def _chosen(classes: Sequence[int], count: int) -> list[int]:
    chosen = list(classes)
    if unknown := [k for k in chosen if not 0 <= k < count]:
        raise RecordError(f"train id {unknown[0]} does not exist: there are {count} classes")
    return chosen


def _mismatch(one: Areas, other: Areas) -> str | None:
    """Why the rows of two counts do not belong to each other; None where they do."""
    columns = one.labelled.shape[1], other.labelled.shape[1]
    if columns[0] != columns[1]:
        return f"{columns[0]} and {columns[1]} classes"
    if len(set(one.names)) < len(one.names):
        return "an image occurs twice"
    alone = sorted(set(one.names) ^ set(other.names))
    numbers = f"{len(one.names)} and {len(other.names)} images"
    return f"{numbers}, and only one of the two has {alone[0]!r}" if alone else None
