"""Examples of a comparison: images of the evaluated split, and what trained heads make of them.

The same images, pixels and classes for all heads, so that they can stand side by side. Examples
hold images of the dataset: whether they may be passed on is said by its licence.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch

from contextbench.data.base import IGNORE, DataError, Sample
from contextbench.evaluation.attention import attention_maps
from contextbench.models.checkpoint import CheckpointError
from contextbench.models.segmenter import Segmenter
from contextbench.records.attention import AttentionMap
from contextbench.records.examples import (
    ByteArray,
    Examples,
    read_examples,
    remove_examples,
    spread,
    write_examples,
)
from contextbench.records.stored import RecordError
from contextbench.runs.cells import Cell, Setting
from contextbench.runs.weights import trained_model
from contextbench.statistics.disagreement import disputed_pixel
from contextbench.training.execution import Execution


def store_examples(
    setting: Setting, cells: Sequence[Cell], execution: Execution, *, count: int
) -> Examples | None:
    """Make the examples of trained `cells`, keep them beside their records, and return them.

    They replace the stored ones, unless checkpoints are missing and the stored ones show all these
    heads and more: those stay, and are returned. Without images or heads there are none: None.
    """
    folder = execution.out / setting.protocol.name
    made = make_examples(setting, cells, execution, count=count)
    if not made.names:
        remove_examples(folder)
        return None
    try:
        stored = read_examples(folder)
    except RecordError:  # to be replaced anyway
        stored = None
    trained = {cell.head.name for cell in cells}
    if stored is not None and made.predictions.keys() < stored.predictions.keys() <= trained:
        execution.reporter.say("the stored examples show more heads: they stay")
        return stored
    if not made.predictions:
        remove_examples(folder)
        return None
    write_examples(made, folder, palette=setting.labels.palette)
    return made


def make_examples(
    setting: Setting, cells: Sequence[Cell], execution: Execution, *, count: int
) -> Examples:
    """At most `count` images, evenly spread over the split, with predictions and attention.

    Attention is that of `disputed_pixel`, the influence that on the logit of the pixel's label.
    A head whose checkpoint cannot be used is left out, with a word to the user.
    """
    dataset = setting.evaluate_set
    samples = [dataset[index] for index in spread(len(dataset), count)]
    predictions = dict(_predictions(cells, samples, execution))
    shown = [cell for cell in cells if cell.head.name in predictions]
    return Examples(
        names=[sample.name for sample in samples],
        images=[sample.image.permute(1, 2, 0).numpy() for sample in samples],
        truths=[sample.labels.numpy() for sample in samples],
        predictions=predictions,
        attention=list(_attention(shown, samples, predictions, execution)),
    )


def _predictions(
    cells: Sequence[Cell], samples: Sequence[Sample], execution: Execution
) -> Iterator[tuple[str, list[ByteArray]]]:
    """Name and predictions (H, W) of each head that can be loaded."""
    with execution.reporter.task("example predictions", len(cells)) as update:
        for done, cell in enumerate(cells, 1):
            execution.stop.check()
            try:
                model = trained_model(cell, execution)
            except CheckpointError as error:
                execution.reporter.say(f"no examples of {cell.head.name}: {error}")
            else:
                yield cell.head.name, [_predict(model, cell, s, execution) for s in samples]
            update(done, cell.head.name)


def _attention(
    cells: Sequence[Cell],
    samples: Sequence[Sample],
    predictions: Mapping[str, Sequence[ByteArray]],
    execution: Execution,
) -> Iterator[AttentionMap]:
    """The maps of each head in turn: for every sample, of the pixel that `predictions` dispute."""
    pixels = [
        disputed_pixel(sample.labels.numpy(), {head: m[i] for head, m in predictions.items()})
        for i, sample in enumerate(samples)
        if predictions
    ]
    with execution.reporter.task("example attention", len(cells)) as update:
        for done, cell in enumerate(cells, 1):
            execution.stop.check()
            model = trained_model(cell, execution)
            try:
                for sample, pixel in zip(samples, pixels, strict=True):
                    yield from _attend(model, cell, sample, pixel)
            except (DataError, torch.OutOfMemoryError, MemoryError) as error:
                # Regions that are the labels, or gradients that do not fit: no reason to end here.
                execution.reporter.say(f"no attention of {cell.head.name}: {error}")
            update(done, cell.head.name)


def _predict(model: Segmenter, cell: Cell, sample: Sample, execution: Execution) -> ByteArray:
    """(H, W) train ids, under the protocol's evaluation settings."""
    predictor = cell.predictor([model], execution.device)
    size = (sample.labels.shape[0], sample.labels.shape[1])
    prediction: ByteArray = predictor(sample.image, size, labels=sample.labels).cpu().numpy()
    return prediction


def _attend(
    model: Segmenter, cell: Cell, sample: Sample, pixel: tuple[int, int]
) -> list[AttentionMap]:
    label = int(sample.labels[pixel])
    return attention_maps(
        model,
        sample.image,
        pixel,
        head_name=cell.head.name,
        image_name=sample.name,
        classes=cell.setting.labels.classes,
        target=None if label == IGNORE else label,
    )
