"""Pixel counts of predictions for a whole split: integers, per image.

Axes: N images, K classes, (H, W) label pixels, height first.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from contextbench.config.evaluation import CorruptConfig, EvaluateConfig
from contextbench.data.ahead import iterating, read_ahead
from contextbench.data.base import IGNORE, DataError, Sample, SegmentationDataset
from contextbench.evaluation.corruption import corrupted
from contextbench.evaluation.counters import Seen, count
from contextbench.evaluation.prediction import Predictor
from contextbench.records.counters import CounterName, Sparse, wanted
from contextbench.records.counts import Areas
from contextbench.records.stored import IntArray
from contextbench.training.failures import enough_room
from contextbench.training.processes import ALONE, World
from heads.interface import evaluating

LABEL_VALUES = 256  # of uint8


def evaluate(
    predictor: Predictor,
    dataset: SegmentationDataset,
    *,
    world: World = ALONE,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Areas:
    """Pixel counts of every image of `dataset`, images of any size, one at a time.

    The next images are read meanwhile, by so many `workers`, or by a thread.

    With what the predictor's settings count beside them, and of images corrupted as they say.

    Of W processes that of rank r evaluates the images r, r + W, ...: each image once, and every
    process returns the counts of all. The models' training modes are as before afterwards.
    `progress` is told the images done, by all processes as far as this one can tell, and their
    total. Raises DataError for an undeclared label and FloatingPointError for logits that are not
    finite, naming the image, and WorkersError for what ends a worker, in all processes alike.
    """
    [areas] = _evaluate(predictor, dataset, world, workers, progress, each=False)
    return areas


def evaluate_each(
    predictor: Predictor,
    dataset: SegmentationDataset,
    *,
    world: World = ALONE,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Areas]:
    """What `evaluate` gives of each model alone, for models that share one backbone.

    It sees every image once. An error of one model ends the evaluation of all.
    """
    return _evaluate(predictor, dataset, world, workers, progress, each=True)


def _evaluate(
    predictor: Predictor,
    dataset: SegmentationDataset,
    world: World,
    workers: int,
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

    def counted() -> list[Areas]:
        return _evaluate_images(predictor, dataset, own, show, workers=workers, each=each)

    shards = world.together(counted)
    return [_interleaved(of_one) for of_one in zip(*shards, strict=True)]


def _evaluate_images(
    predictor: Predictor,
    dataset: SegmentationDataset,
    images: Sequence[int],
    progress: Callable[[int], object],
    *,
    workers: int,
    each: bool,
) -> list[Areas]:
    """Counts of some images, in this process."""
    num_classes = len(dataset.labels.classes)
    maps = len(predictor.models) if each else 1
    counts = np.zeros((maps, 3, len(images), num_classes), dtype=np.int64)
    further = [_Further(predictor.config, num_classes) for _ in range(maps)]
    names = []
    seen = _AsSeen(dataset, predictor.config.corrupt)
    with ExitStack() as stack, torch.inference_mode():
        stack.enter_context(enough_room(workers))
        samples = stack.enter_context(iterating(read_ahead(seen, images, workers)))
        for model in predictor.models:
            stack.enter_context(evaluating(model))
        for row, (name, image, labels) in enumerate(samples):
            labels = labels.to(predictor.device)
            with _naming(name):
                predictions = predictor.scored(image, labels, each=each)
                tables = [confusion_table(p, labels, num_classes) for p, _ in predictions]
                for own, table, (found, sure) in zip(further, tables, predictions, strict=True):
                    own.add(table, found, labels, sure)
            areas = [torch.stack(areas_of_table(table)) for table in tables]
            counts[:, :, row] = torch.stack(areas).cpu().numpy()
            names.append(name)
            progress(row + 1)
    return [
        Areas(names, *of_one, further=own.stacked)
        for of_one, own in zip(counts, further, strict=True)
    ]


@dataclass(frozen=True)
class _AsSeen:
    """Images as they are seen, corrupted where that is wanted."""

    dataset: SegmentationDataset
    corrupt: CorruptConfig | None

    def __getitem__(self, index: int) -> Sample:
        name, image, labels = self.dataset[index]
        return Sample(name, corrupted(image, self.corrupt, name), labels)


class _Further:
    """What a view counts beside the pixels of classes, of image after image."""

    def __init__(self, config: EvaluateConfig, num_classes: int) -> None:
        self.config = config
        self.shapes = wanted(config, num_classes)
        self.counted: dict[CounterName, list[tuple[IntArray, IntArray]]] = {
            name: [] for name in self.shapes
        }

    def add(
        self, table: Tensor, prediction: Tensor, labels: Tensor, confidence: Tensor | None
    ) -> None:
        """Count one image more, of which all is on the device."""
        seen = Seen(table, prediction, labels, confidence, self.config)
        for name, images in self.counted.items():
            flat = count(name, seen).flatten()
            places = flat.nonzero().flatten()
            images.append((places.cpu().numpy(), flat[places].cpu().numpy()))

    @property
    def stacked(self) -> dict[CounterName, Sparse]:
        return {
            name: Sparse.stacked(self.shapes[name], each) for name, each in self.counted.items()
        }


def _interleaved(shards: Sequence[Areas]) -> Areas:
    """Rows of shard r as rows r, r + W, ... of W shards."""
    names = [""] * sum(len(shard.names) for shard in shards)
    classes = shards[0].labelled.shape[1]
    counts = np.zeros((3, len(names), classes), dtype=np.int64)
    for rank, shard in enumerate(shards):
        names[rank :: len(shards)] = shard.names
        own = np.stack([shard.intersection, shard.predicted, shard.labelled])
        counts[:, rank :: len(shards)] = own
    further = {
        name: Sparse.interleaved([shard.further[name] for shard in shards])
        for name in shards[0].further
    }
    return Areas(names, *counts, further=further)


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
    return areas_of_table(confusion_table(prediction, labels, num_classes))


def areas_of_table(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Right, predicted and labelled pixels (K,) of a table by label and prediction (K, K)."""
    return table.diagonal().clone(), table.sum(dim=0), table.sum(dim=1)


def confusion_table(prediction: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Labelled pixels (K, K) by label and prediction, both (H, W). Raises as `count_areas` does.

    One histogram of pairs with a row for every uint8 value: the ignored pixels are a row too.

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
    return table[:num_classes]


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say at which image an evaluation failed."""
    try:
        yield
    except (DataError, FloatingPointError) as error:
        raise type(error)(f"{name}: {error}") from error
