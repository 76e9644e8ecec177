"""Predictions at label size from one model or several, without logits of that size.

What models say of an image, whole or in windows, is kept on the grid of their features: K / 64
numbers a pixel at output stride 8, times the overlap of windows, of each view. It is resized,
compared and thrown away a strip of rows at a time, a few MiB whatever the size of the image. What
grows besides are the image, 3 bytes a pixel and 12 of its largest view, and the labels.

Axes: N images, K classes, (H, W) label pixels, (h, w) feature pixels, height first.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.frozen import LARGEST_SIDE, Size
from contextbench.data.base import DataError
from contextbench.data.transforms import MEAN, STD, mirror_labels, normalise
from contextbench.evaluation.batches import WindowBatches
from contextbench.evaluation.opencv import resized_bytes
from contextbench.evaluation.strips import (
    RowWeights,
    View,
    Whole,
    Window,
    Windowed,
    row_weights,
)
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter
from contextbench.training.failures import is_out_of_memory

# A strip that stays in a processor's cache halves the time of comparing it; a GPU wants large ones.
STRIP_BYTES_CPU = 4 * 2**20
STRIP_BYTES_GPU = 128 * 2**20

T = TypeVar("T")


class Prediction(NamedTuple):
    """Of images of one size."""

    labels: Tensor  # (N, H, W) uint8, train ids
    confidence: Tensor  # (N, H, W) float32, the probability of each of these


@dataclass(frozen=True)
class Predictor:
    """Models and how they are applied; several models are an ensemble, averaged like views.

    The models are on `device` and in evaluation mode. `mirrored` is that of the labels: which class
    each one is in the mirror image, if that matters (`LabelSet.mirrored`).
    """

    models: Sequence[Segmenter]
    device: torch.device
    precision: Precision
    config: EvaluateConfig = field(default_factory=EvaluateConfig)
    mirrored: Sequence[int] | None = None
    batches: WindowBatches = field(default_factory=WindowBatches, compare=False)

    def __call__(
        self, image: Tensor, size: tuple[int, int], *, labels: Tensor | None = None
    ) -> Tensor:
        """Train ids (H, W) uint8 at `size`, on `device`, for one image (3, H', W') uint8.

        `labels` (H, W) matter only to a model that needs them. Otherwise as `predict_labels`.
        """
        truth = None if labels is None else labels[None]
        return self._made(largest, image[None], size, truth)[0][0]

    def each(
        self, image: Tensor, size: tuple[int, int], *, labels: Tensor | None = None
    ) -> list[Tensor]:
        """What each model predicts by itself; all share one backbone. Otherwise as a call."""
        truth = None if labels is None else labels[None]
        return [one[0] for one in self._made(largest, image[None], size, truth, each=True)]

    def scored(
        self, image: Tensor, labels: Tensor, *, each: bool
    ) -> list[tuple[Tensor, Tensor | None]]:
        """What is counted of an image (3, H', W') with labels (H, W): of the models' mean, or of
        `each` by itself, which then share one backbone.

        Train ids (H, W) as a call gives them, with confidences where the settings count these.
        """
        size, images, truth = _size(labels), image[None], labels[None]
        if self.config.calibration:
            sure = self._made(confident, images, size, truth, each=each)
            return [(one.labels[0], one.confidence[0]) for one in sure]
        return [(one[0], None) for one in self._made(largest, images, size, truth, each=each)]

    def check_labels(self) -> None:
        """Raise `DataError` for a model that cannot do without the labels of images."""
        _check_labels(self.models, None)

    def labels(self, images: Tensor) -> Tensor:
        """Train ids (N, H, W) uint8 of images (N, 3, H, W) uint8, at their size. As a call."""
        return self._made(largest, images, _size(images), None)[0]

    def confident(self, images: Tensor) -> Prediction:
        """The same labels, and how probable each of them is to the models."""
        return self._made(confident, images, _size(images), None)[0]

    @torch.inference_mode()
    def logits(self, image: Tensor) -> Tensor:
        """(K, h, w) float32 of the first model, on `device`, for one image (3, H', W') uint8.

        The whole image as it is, once: none of the scales, mirror images and windows of `config`.
        Raises as `predict_labels` does.
        """
        model = self.models[0]
        _check_labels([model], None)
        with self.precision.autocast(self.device):
            return _finite(model(self._prepared(image[None])).logits[0])

    @torch.inference_mode()
    def _made(
        self,
        make: "Make[T]",
        images: Tensor,
        size: tuple[int, int],
        labels: Tensor | None,
        *,
        each: bool = False,
    ) -> list[T]:
        """`predicted` of images (N, 3, H', W') uint8."""
        truth = None if labels is None else labels.to(self.device)
        with self.precision.autocast(self.device):
            return predicted(
                make,
                self.models,
                self._prepared(images),
                size,
                each=each,
                labels=truth,
                config=self.config,
                mirrored=self.mirrored,
                batches=self.batches,
            )

    def _prepared(self, images: Tensor) -> Tensor:
        """(N, 3, H', W') as models take them."""
        layout = self.precision.torch_memory_format
        return normalise(images.to(self.device)).to(memory_format=layout)


Make = Callable[[Sequence[View], Size, EvaluateConfig], T]
"""What is made of views at a size: `largest` or `confident`."""


def predicted(
    make: Make[T],
    models: Sequence[Segmenter],
    images: Tensor,
    size: tuple[int, int],
    *,
    each: bool = False,
    labels: Tensor | None = None,
    config: EvaluateConfig = EvaluateConfig(),
    mirrored: Sequence[int] | None = None,
    batches: WindowBatches | None = None,
) -> list[T]:
    """What is made at `size` of normalised images (N, 3, H', W'), by the mean of all models.

    Of `each` model alone, in turn, for models that share one backbone: it sees each view, or each
    window of it, once; features are held for one of these at a time, or for a batch of windows,
    scores on their grid for all views and models. A model that needs `labels` (N, H, W) sees those
    of each view. Raises FloatingPointError for logits that are not finite, and DataError for labels
    that are needed and missing.
    """
    scene = _Scene(size, labels, config, mirrored, batches or WindowBatches())
    if each:
        seen = _views(models, images, scene)
        return [make(views, size, config) for views in zip(*seen, strict=True)]
    views = [view for model in models for views in _views([model], images, scene) for view in views]
    return [make(views, size, config)]


def predict_labels(
    models: Sequence[Segmenter],
    images: Tensor,
    size: tuple[int, int],
    *,
    labels: Tensor | None = None,
    config: EvaluateConfig = EvaluateConfig(),
    mirrored: Sequence[int] | None = None,
    batches: WindowBatches | None = None,
) -> Tensor:
    """`largest` of all models: train ids (N, H, W) uint8. Otherwise as `predicted`."""
    found = predicted(
        largest,
        models,
        images,
        size,
        labels=labels,
        config=config,
        mirrored=mirrored,
        batches=batches,
    )
    return found[0]


def view_size(size: tuple[int, int], config: EvaluateConfig, scale: float) -> tuple[int, int]:
    """Height and width that a model sees of an image of `size` at one of the scales."""
    if config.like is not None:
        return _size_like_mmseg(size, config, scale)
    height, width = config.size or size
    if config.short_side is not None:
        factor = config.short_side / min(height, width)
        if config.long_side is not None:
            factor = min(factor, config.long_side / max(height, width))
        scale = scale * factor
    return max(1, round(height * scale)), max(1, round(width * scale))


def _size_like_mmseg(
    size: tuple[int, int], config: EvaluateConfig, scale: float
) -> tuple[int, int]:
    """As `view_size`: sides are rounded twice, and of several scales each is that of the image."""
    height, width = size
    if config.size is not None and config.scales == (1.0,):
        return config.size
    sides = (height, width)
    if config.scales != (1.0,):
        sides = (int(height * scale + 0.5), int(width * scale + 0.5))
    elif config.short_side is not None:
        sides = (config.short_side, config.long_side or LARGEST_SIDE)
    factor = min(max(sides) / max(size), min(sides) / min(size))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side: a stride apart, the last one at the end."""
    last = max(0, length - window)
    return [*range(0, last, stride), last]


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


class _Scene(NamedTuple):
    """What is known besides the images, and the same for all of their views but for the labels."""

    size: Size  # of the labels
    labels: Tensor | None  # (N, H, W)
    config: EvaluateConfig
    mirrored: Sequence[int] | None
    batches: WindowBatches


def _views(models: Sequence[Segmenter], images: Tensor, scene: _Scene) -> Iterator[list[View]]:
    """Each scale and, with `flip`, its mirror image, mirrored back; by every model.

    Labels are mirrored too. They keep their size: a model takes what it needs at its own.
    """
    labels, config, mirrored = scene.labels, scene.config, scene.mirrored
    _check_labels(models, labels)
    for scale in config.scales:
        resized = _resized if config.like is None else _resized_bytes
        scaled = resized(images, view_size(_size(images), config, scale))
        yield _seen(models, scaled, scene)
        if config.flip:
            turned = None if labels is None else _mirrored_labels(labels, mirrored)
            seen = _seen(models, scaled.flip(-1), scene._replace(labels=turned))
            yield [view.turned(mirrored) for view in seen]


def _check_labels(models: Sequence[Segmenter], labels: Tensor | None) -> None:
    if labels is None and any(model.needs_labels for model in models):
        raise DataError(
            "this model's regions are the ground truth, an upper bound for evaluation: "
            "it cannot predict images without labels"
        )


def _finite(logits: Tensor) -> Tensor:
    """In float32."""
    if not logits.isfinite().all():
        raise FloatingPointError("the model's logits are not finite")
    return logits.float()


def _mirrored_labels(labels: Tensor, mirrored: Sequence[int] | None) -> Tensor:
    swap = [(k, other) for k, other in enumerate(mirrored or ()) if k < other]
    return mirror_labels(labels, swap)


def _logits(models: Sequence[Segmenter], images: Tensor, labels: Tensor | None) -> Iterator[Tensor]:
    """Logits (N, K, h, w) of each model in turn, after one pass of the backbone they share."""
    shared = images if len(models) == 1 else models[0].backbone(images)
    for model in models:
        yield model(shared, labels).logits


def _seen(models: Sequence[Segmenter], images: Tensor, scene: _Scene) -> list[View]:
    """What each model says of one view of the images, whole or in windows."""
    size, labels, config = scene.size, scene.labels, scene.config
    outer, device = _size(images), images.device
    window, stride = config.window, config.stride
    if config.like is not None:
        divisor = config.size_divisor or 1
        images = F.pad(images, (0, -outer[1] % divisor, 0, -outer[0] % divisor))
        # One that holds all of it: logits are resized to the view before they are to the labels.
        window, stride = window or _size(images), stride or _size(images)
    elif window is None or stride is None or (window[0] >= outer[0] and window[1] >= outer[1]):
        scores = [_finite(logits) for logits in _logits(models, images, labels)]
        return [
            Whole(each, _rows(model, each, size[0]), size[1], model.align_corners)
            for model, each in zip(models, scores, strict=True)
        ]
    inner = min(window[0], images.shape[-2]), min(window[1], images.shape[-1])
    means = config.average == "probabilities" and config.like is None
    return [
        Windowed(
            own,
            inner,
            outer,
            size,
            _rows(model, own[0].scores, inner[0]),
            row_weights(outer[0], size[0], device, align_corners=model.align_corners),
            probabilities=means,
            align_corners=model.align_corners,
        )
        for model, own in zip(models, _windows(models, images, scene, inner, stride), strict=True)
    ]


def _rows(model: Segmenter, scores: Tensor, height: int) -> RowWeights:
    """How scores (N, K, h, w) of the model are resized to a height."""
    aligned = model.align_corners
    return row_weights(scores.shape[2], height, scores.device, align_corners=aligned)


def _windows(
    models: Sequence[Segmenter], images: Tensor, scene: _Scene, window: Size, stride: Size
) -> list[list[Window]]:
    """Of each model, its scores of every window; several windows are seen at once.

    As many as `scene.batches` says, half of these where memory does not suffice.
    """
    height, width = images.shape[-2:]
    labels, batches = scene.labels, scene.batches
    if labels is not None:  # windows see their part of the labels, at the size of the image
        labels = F.interpolate(labels[:, None].float(), (height, width), mode="nearest-exact")[:, 0]
    found: list[list[Window]] = [[] for _ in models]
    tops, lefts = map(window_starts, (height, width), window, stride)
    places = list(itertools.product(tops, lefts))
    first = _parts(images, places[:1], window)
    while left := len(places) - len(found[0]):
        at_once = batches.at_once(scene.config.window_batch, models[0], first)
        part = places[-left:][:at_once]
        try:
            seen = _scores(models, images, labels, part, window)
        except (RuntimeError, MemoryError) as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
            batches.halve(len(part), first)
            continue
        for own, scores in zip(found, seen, strict=True):
            own += [Window(each, *place) for each, place in zip(scores, part, strict=True)]
    return found


def _scores(
    models: Sequence[Segmenter],
    images: Tensor,
    labels: Tensor | None,
    places: Sequence[tuple[int, int]],
    window: Size,
) -> list[Sequence[Tensor]]:
    """Of each model, its scores (N, K, h, w) of each of the windows at these places."""
    parts = _parts(images, places, window)
    truth = None if labels is None else _parts(labels, places, window)
    seen = [_finite(logits) for logits in _logits(models, parts, truth)]
    return [logits.chunk(len(places)) for logits in seen]


def _parts(images: Tensor, places: Sequence[tuple[int, int]], window: Size) -> Tensor:
    """Windows (P N, ..., h, w) of images (N, ..., H, W), those of the first place first."""
    parts = [images[..., top : top + window[0], left : left + window[1]] for top, left in places]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (N, 3, H, W) at another size, filtered as training images are."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def _resized_bytes(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (N, 3, H, W) at another size, of which each is a normalised one of bytes, again."""
    if images.shape[-2:] == size:
        return images
    mean, std = (torch.tensor(each, device=images.device)[:, None, None] for each in (MEAN, STD))
    raw = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return normalise(resized_bytes(raw, size)).to(images)


def strip_bytes(device: torch.device) -> int:
    """How much of the resized scores is held at a time."""
    return STRIP_BYTES_CPU if device.type == "cpu" else STRIP_BYTES_GPU


def largest(
    views: Sequence[View], size: Size, config: EvaluateConfig, budget: int | None = None
) -> Tensor:
    """The class with the largest score at every pixel: (N, H, W) uint8 at `size`.

    A single view takes the largest score. Several views (scales, mirror images, models) take the
    largest mean, of probabilities after a softmax at label size or of logits, as `config.average`
    says. `budget` are the bytes of a strip; those of the device unless given.
    """
    like = views[0].like
    prediction = torch.empty(len(like), *size, dtype=torch.uint8, device=like.device)
    for rows, scores in _strips(views, size, config.average, budget):
        prediction[:, rows] = scores.max(dim=1).indices
    return prediction


def confident(views: Sequence[View], size: Size, config: EvaluateConfig) -> Prediction:
    """As `largest`, with the probability of each class.

    It is that of the mean which the label is the largest of: the mean of probabilities, or what a
    softmax makes of the mean of logits.
    """
    like = views[0].like
    found = Prediction(
        torch.empty(len(like), *size, dtype=torch.uint8, device=like.device),
        torch.empty(len(like), *size, device=like.device),
    )
    for rows, scores in _strips(views, size, config.average):
        likely = _probabilities(scores, views, config.average)
        found.labels[:, rows] = scores.max(dim=1).indices
        found.confidence[:, rows] = likely.max(dim=1).values
    return found


def _strips(
    views: Sequence[View], size: tuple[int, int], average: str, budget: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Label rows from first to last with what to take the largest of, (N, K, rows, W)."""
    n, num_classes = views[0].like.shape[:2]
    budget = strip_bytes(views[0].like.device) if budget is None else budget
    cells = max(view.row_cells for view in views)
    height = max(1, budget // (4 * n * num_classes * cells))
    for start in range(0, size[0], height):
        rows = slice(start, min(start + height, size[0]))
        yield rows, _summed(views, rows, average)


def _summed(views: Sequence[View], rows: slice, average: str) -> Tensor:
    """The scores of a single view, the sum over several."""
    if len(views) == 1:
        return views[0].strip(rows)
    resized = (
        scores if view.probabilities or average == "logits" else scores.softmax(dim=1)
        for view in views
        for scores in [view.strip(rows)]
    )
    total = next(resized)
    for each in resized:  # one at a time: a strip of every view would be a dozen strips
        total += each
    return total


def _probabilities(scores: Tensor, views: Sequence[View], average: str) -> Tensor:
    """Of what `_summed` gives."""
    summed_probabilities = len(views) > 1 and average == "probabilities"
    means = scores / len(views)
    return means if summed_probabilities or views[0].probabilities else means.softmax(dim=1)
