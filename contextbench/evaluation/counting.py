"""Pixel counts of predictions for a whole split: integers, per image.

Axes: N images, K classes, (H, W) label pixels, height first.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor

from contextbench.data.base import IGNORE, DataError, SegmentationDataset
from contextbench.evaluation.prediction import Predictor
from contextbench.records.counts import Areas
from contextbench.training.processes import ALONE, World
from heads.interface import evaluating

LABEL_VALUES = 256  # of uint8


def evaluate(
    predictor: Predictor,
    dataset: SegmentationDataset,
    *,
    world: World = ALONE,
    progress: Callable[[int, int], None] | None = None,
) -> Areas:
    """Pixel counts of every image of `dataset`, images of any size, one at a time.

    Of W processes that of rank r evaluates the images r, r + W, ...: each image once, and every
    process returns the counts of all. The models' training modes are as before afterwards.
    `progress` is told the images done, by all processes as far as this one can tell, and their
    total. Raises DataError for an undeclared label and FloatingPointError for logits that are not
    finite, naming the image, in all processes alike.
    """
    [areas] = _evaluate(predictor, dataset, world, progress, each=False)
    return areas


def evaluate_each(
    predictor: Predictor,
    dataset: SegmentationDataset,
    *,
    world: World = ALONE,
    progress: Callable[[int, int], None] | None = None,
) -> list[Areas]:
    """What `evaluate` gives of each model alone, for models that share one backbone.

    It sees every image once. An error of one model ends the evaluation of all.
    """
    return _evaluate(predictor, dataset, world, progress, each=True)


def _evaluate(
    predictor: Predictor,
    dataset: SegmentationDataset,
    world: World,
    progress: Callable[[int, int], None] | None,
    *,
    each: bool,
) -> list[Areas]:
    """Of each model, or of their mean."""
    total = len(dataset)
    own = range(world.rank, total, world.size)

    def show(done: int) -> None:
        if progress is not None:
            progress(min(total, done * world.size), total)

    shards = world.together(lambda: _evaluate_images(predictor, dataset, own, show, each=each))
    return [_interleaved(of_one) for of_one in zip(*shards, strict=True)]


def _evaluate_images(
    predictor: Predictor,
    dataset: SegmentationDataset,
    images: Sequence[int],
    progress: Callable[[int], object],
    *,
    each: bool,
) -> list[Areas]:
    """Counts of some images, in this process."""
    num_classes = len(dataset.labels.classes)
    maps = len(predictor.models) if each else 1
    counts = np.zeros((maps, 3, len(images), num_classes), dtype=np.int64)
    names = []
    with ExitStack() as modes, torch.inference_mode():
        for model in predictor.models:
            modes.enter_context(evaluating(model))
        for row, index in enumerate(images):
            name, image, labels = dataset[index]
            labels = labels.to(predictor.device)
            with _naming(name):
                predictions = _predictions(predictor, image, labels, each=each)
                areas = [torch.stack(count_areas(p, labels, num_classes)) for p in predictions]
            counts[:, :, row] = torch.stack(areas).cpu().numpy()
            names.append(name)
            progress(row + 1)
    return [Areas(names, *of_one) for of_one in counts]


def _predictions(
    predictor: Predictor, image: Tensor, labels: Tensor, *, each: bool
) -> list[Tensor]:
    size = (labels.shape[0], labels.shape[1])
    if each:
        return predictor.each(image, size, labels=labels)
    return [predictor(image, size, labels=labels)]


def _interleaved(shards: Sequence[Areas]) -> Areas:
    """Rows of shard r as rows r, r + W, ... of W shards."""
    names = [""] * sum(len(shard.names) for shard in shards)
    classes = shards[0].labelled.shape[1]
    counts = np.zeros((3, len(names), classes), dtype=np.int64)
    for rank, shard in enumerate(shards):
        names[rank :: len(shards)] = shard.names
        own = np.stack([shard.intersection, shard.predicted, shard.labelled])
        counts[:, rank :: len(shards)] = own
    return Areas(names, *counts)


def count_areas(
    prediction: Tensor, labels: Tensor, num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels that are right, predicted and labelled per class: three int64 tensors (K,).

    `prediction` and uint8 `labels` are (H, W); of (N, H, W) each image is counted apart and the
    results are (N, K). Ignored pixels are in none of the three. Raises DataError for a label that
    is neither a train id nor `IGNORE`, and ValueError for a prediction that is no train id.
    """
    if prediction.shape != labels.shape or labels.dim() not in (2, 3):
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and labels {tuple(labels.shape)} must have one "
            "shape, (H, W) or (N, H, W)"
        )
    if labels.dim() == 2:
        return _count_image(prediction, labels, num_classes)
    each = [_count_image(*pair, num_classes) for pair in zip(prediction, labels, strict=True)]
    correct, predicted, labelled = (torch.stack(counts) for counts in zip(*each, strict=True))
    return correct, predicted, labelled


def _count_image(
    prediction: Tensor, labels: Tensor, num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One histogram of pairs with a row for every uint8 value: the ignored pixels are a row too.

    Selecting the labelled pixels first would take several times as long as counting.
    """
    low, high = (int(value) for value in prediction.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(f"predictions are in {low} .. {high}, not in 0 .. {num_classes - 1}")
    pairs = labels.to(torch.int32).mul_(num_classes).add_(prediction.to(torch.int32))
    table = torch.bincount(pairs.flatten(), minlength=LABEL_VALUES * num_classes)
    table = table.view(LABEL_VALUES, num_classes)  # (label value, prediction)
    undeclared = table[num_classes:IGNORE].any(dim=1).nonzero().flatten()
    if len(undeclared):
        raise DataError(
            f"undeclared label value {num_classes + int(undeclared[0])}: "
            f"allowed are 0 .. {num_classes - 1} and {IGNORE}"
        )
    confusion = table[:num_classes]
    return confusion.diagonal().clone(), confusion.sum(dim=0), confusion.sum(dim=1)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say at which image an evaluation failed."""
    try:
        yield
    except (DataError, FloatingPointError) as error:
        raise type(error)(f"{name}: {error}") from error
