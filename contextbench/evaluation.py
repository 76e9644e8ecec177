"""Predictions and their pixel counts for a whole split, without full-size logits.

Logits are resized, compared and thrown away a strip of rows at a time, so memory holds a few MiB of
them whatever the size of the image; counts are integers per image.

Axes: N images, K classes, (H, W) label pixels, (h, w) feature pixels, height first.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contextbench.data.base import IGNORE, DataError, SegmentationDataset
from contextbench.data.transforms import normalise
from contextbench.model import Segmenter, resize_logits
from contextbench.precision import Precision
from contextbench.results import Areas

# A strip that stays in a processor's cache halves the time of comparing it; a GPU wants large ones.
STRIP_BYTES_CPU = 4 * 2**20
STRIP_BYTES_GPU = 128 * 2**20
LABEL_VALUES = 256  # of uint8


class View(NamedTuple):
    """Low-resolution logits of one view of the images, and how their rows combine to label rows."""

    logits: Tensor  # (N, K, h, w) float32
    weights: Tensor  # (taps, H)
    sources: Tensor  # (taps, H) row of `logits` that a weight belongs to


def evaluate(
    model: Segmenter,
    dataset: SegmentationDataset,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    device: torch.device,
    precision: Precision,
    progress: Callable[[int, int], None] | None = None,
) -> Areas:
    """Pixel counts of every image of `dataset`, whole images of any size, one at a time.

    `model` is on `device` already; its training modes are as before afterwards. `progress` is told
    the images done and their total. `scales` and `flip` as in `predict_labels`. Raises DataError
    for an undeclared label and FloatingPointError for logits that are not finite, naming the image.
    """
    total, num_classes = len(dataset), len(dataset.labels.classes)
    counts = np.zeros((3, total, num_classes), dtype=np.int64)
    names = []
    with _evaluating(model), torch.inference_mode():
        for index in range(total):
            name, image, labels = dataset[index]
            size = (labels.shape[0], labels.shape[1])
            labels = labels.to(device)
            with _naming(name):
                prediction = predict_image(
                    model,
                    image,
                    size,
                    labels=labels,
                    scales=scales,
                    flip=flip,
                    device=device,
                    precision=precision,
                )
                areas = count_areas(prediction, labels, num_classes)
            counts[:, index] = torch.stack(areas).cpu().numpy()
            names.append(name)
            if progress is not None:
                progress(index + 1, total)
    return Areas(names, *counts)


@torch.inference_mode()
def predict_image(
    model: Segmenter,
    image: Tensor,
    size: tuple[int, int],
    *,
    labels: Tensor | None = None,
    scales: Sequence[float],
    flip: bool,
    device: torch.device,
    precision: Precision,
) -> Tensor:
    """Train ids (H, W) uint8 at `size`, on `device`, for one image (3, H', W') uint8.

    `model` is on `device` and in evaluation mode; `labels` (H, W) matter only if it needs them.
    Otherwise as `predict_labels`.
    """
    images = normalise(image[None].to(device)).to(memory_format=precision.torch_memory_format)
    truth = None if labels is None else labels[None].to(device)
    with precision.autocast(device):
        return predict_labels(model, images, size, labels=truth, scales=scales, flip=flip)[0]


def predict_labels(
    model: Segmenter,
    images: Tensor,
    size: tuple[int, int],
    *,
    labels: Tensor | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """Train ids (N, H, W) uint8 at `size` for normalised images (N, 3, H', W').

    A single view takes the largest logit. Several `scales` of the images, or `flip` (each mirrored
    too), take the largest mean probability, after a softmax at label size. A model that needs
    `labels` (N, H, W) sees those of each view. Raises FloatingPointError for logits that are not
    finite, and DataError for labels that are needed and missing.
    """
    if labels is None and model.needs_labels:
        raise DataError(
            "this model's regions are the ground truth, an upper bound for evaluation: "
            "it cannot predict images without labels"
        )
    views = [_view(logits, size[0]) for logits in _views(model, images, labels, scales, flip)]
    n, num_classes = views[0].logits.shape[:2]
    budget = STRIP_BYTES_CPU if images.device.type == "cpu" else STRIP_BYTES_GPU
    rows = max(1, budget // (4 * n * num_classes * size[1]))
    prediction = torch.empty(n, *size, dtype=torch.uint8, device=images.device)
    for start in range(0, size[0], rows):
        strip = slice(start, start + rows)
        prediction[:, strip] = _scores(views, strip, size[1]).max(dim=1).indices
    return prediction


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


def _views(
    model: Segmenter, images: Tensor, labels: Tensor | None, scales: Sequence[float], flip: bool
) -> Iterator[Tensor]:
    """Logits (N, K, h, w) of each scale and, with `flip`, of its mirror image, mirrored back.

    Labels are mirrored too. They keep their size: the model takes what it needs at its own.
    """
    for scale in scales:
        scaled = _rescale(images, scale)
        yield model(scaled, labels).logits
        if flip:
            mirrored = None if labels is None else labels.flip(-1)
            yield model(scaled.flip(-1), mirrored).logits.flip(-1)


def _rescale(images: Tensor, scale: float) -> Tensor:
    """Images at a factor of their size, filtered as training images are."""
    if scale == 1.0:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def _view(logits: Tensor, height: int) -> View:
    """Prepare logits for `_resized_rows`, which see their rows as mixtures of few source rows.

    Resizing is linear and acts on rows and columns apart, so what it makes of the identity matrix
    are the weights of each source row in each resulting row; bilinear has two that are not zero.
    """
    logits = logits.float()
    if not logits.isfinite().all():
        raise FloatingPointError("the model's logits are not finite")
    identity = torch.eye(logits.shape[2], device=logits.device)[None, :, :, None]
    mixture = resize_logits(identity, (height, 1))[0, :, :, 0]  # (h, H)
    weights, sources = mixture.topk(min(2, len(mixture)), dim=0)  # (taps, H)
    return View(logits, weights, sources)


def _resized_rows(view: View, rows: slice, width: int) -> Tensor:
    """Rows of `resize_logits` (N, K, rows, W) without the others; equal up to float32 rounding."""
    taps = view.logits[:, :, view.sources[:, rows]]  # (N, K, taps, rows, w)
    mixed = (taps * view.weights[:, rows, None]).sum(dim=2)  # (N, K, rows, w)
    # Resizing and comparing classes are both faster with the classes side by side in memory.
    mixed = mixed.contiguous(memory_format=torch.channels_last)
    return resize_logits(mixed, (mixed.shape[2], width))


def _scores(views: Sequence[View], rows: slice, width: int) -> Tensor:
    """What to take the largest of: logits of a single view, summed probabilities of several."""
    if len(views) == 1:
        return _resized_rows(views[0], rows, width)
    resized = (_resized_rows(view, rows, width) for view in views)
    probabilities = (logits.softmax(dim=1) for logits in resized)  # over classes, at each pixel
    total = next(probabilities)
    for each in probabilities:  # one at a time: a strip of every view would be a dozen strips
        total += each
    return total


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, then every module's own mode again: a frozen batch norm stays frozen."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say at which image an evaluation failed."""
    try:
        yield
    except (DataError, FloatingPointError) as error:
        raise type(error)(f"{name}: {error}") from error
