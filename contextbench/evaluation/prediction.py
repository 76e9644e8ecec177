"""Predictions at label size from one model or several, without full-size logits where possible.

Logits are resized, compared and thrown away a strip of rows at a time, so memory holds a few MiB of
them whatever the size of the image. Windows are the exception: they overlap, so that their sum is
kept at image size, 4 K H W bytes.

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
from contextbench.config.frozen import Size
from contextbench.data.base import DataError
from contextbench.data.transforms import mirror_labels, normalise
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter, resize_logits

# A strip that stays in a processor's cache halves the time of comparing it; a GPU wants large ones.
STRIP_BYTES_CPU = 4 * 2**20
STRIP_BYTES_GPU = 128 * 2**20

T = TypeVar("T")


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

    def __call__(
        self, image: Tensor, size: tuple[int, int], *, labels: Tensor | None = None
    ) -> Tensor:
        """Train ids (H, W) uint8 at `size`, on `device`, for one image (3, H', W') uint8.

        `labels` (H, W) matter only to a model that needs them. Otherwise as `predict_labels`.
        """
        return self._applied(predict_labels, image, size, labels)[0]

    def each(
        self, image: Tensor, size: tuple[int, int], *, labels: Tensor | None = None
    ) -> list[Tensor]:
        """What each model predicts by itself; all share one backbone. Otherwise as a call."""
        return [each[0] for each in self._applied(predict_each, image, size, labels)]

    @torch.inference_mode()
    def logits(self, image: Tensor) -> Tensor:
        """(K, h, w) float32 of the first model, on `device`, for one image (3, H', W') uint8.

        The whole image as it is, once: none of the scales, mirror images and windows of `config`.
        Raises as `predict_labels` does.
        """
        model = self.models[0]
        _check_labels([model], None)
        with self.precision.autocast(self.device):
            return _finite(model(self._prepared(image)).logits[0].float())

    @torch.inference_mode()
    def _applied(
        self,
        predict: Callable[..., T],
        image: Tensor,
        size: tuple[int, int],
        labels: Tensor | None,
    ) -> T:
        truth = None if labels is None else labels[None].to(self.device)
        with self.precision.autocast(self.device):
            return predict(
                self.models,
                self._prepared(image),
                size,
                labels=truth,
                config=self.config,
                mirrored=self.mirrored,
            )

    def _prepared(self, image: Tensor) -> Tensor:
        """(1, 3, H', W') as models take it."""
        layout = self.precision.torch_memory_format
        return normalise(image[None].to(self.device)).to(memory_format=layout)


class Scores(NamedTuple):
    """What a model says of one view of the images."""

    values: Tensor  # (N, K, h, w); at the size of the image where they are of windows
    probabilities: bool  # or logits
    windows: bool


class View(NamedTuple):
    """Scores of one view of the images, and how their rows combine to label rows."""

    scores: Tensor  # (N, K, h, w) float32
    weights: Tensor  # (taps, H)
    sources: Tensor  # (taps, H) row of `scores` that a weight belongs to
    probabilities: bool  # or logits


def predict_labels(
    models: Sequence[Segmenter],
    images: Tensor,
    size: tuple[int, int],
    *,
    labels: Tensor | None = None,
    config: EvaluateConfig = EvaluateConfig(),
    mirrored: Sequence[int] | None = None,
) -> Tensor:
    """Train ids (N, H, W) uint8 at `size` for normalised images (N, 3, H', W').

    A single view takes the largest score. Several views (scales, mirror images, models) take the
    largest mean, of probabilities after a softmax at label size or of logits, as `config.average`
    says. A model that needs `labels` (N, H, W) sees those of each view. Raises FloatingPointError
    for logits that are not finite, and DataError for labels that are needed and missing.
    """
    scores: Iterator[Scores] = itertools.chain.from_iterable(
        views for model in models for views in _views([model], images, labels, config, mirrored)
    )
    if len(models) * len(config.scales) * (1 + config.flip) > 1:
        scores = _merged(scores, size, config.average)
    return _largest([_view(each, size[0]) for each in scores], size, config.average)


def predict_each(
    models: Sequence[Segmenter],
    images: Tensor,
    size: tuple[int, int],
    *,
    labels: Tensor | None = None,
    config: EvaluateConfig = EvaluateConfig(),
    mirrored: Sequence[int] | None = None,
) -> list[Tensor]:
    """What `predict_labels` gives of each model alone, for models that share one backbone.

    The backbone sees each view, or each window of it, once. Features are held for one of these at a
    time, scores for all views and models: small of whole images, 4 K H W bytes each of windows.
    """
    seen = _views(models, images, labels, config, mirrored)
    prepared = [[_view(scores, size[0]) for scores in each] for each in seen]
    return [_largest(views, size, config.average) for views in zip(*prepared, strict=True)]


def _merged(seen: Iterator[Scores], size: tuple[int, int], average: str) -> Iterator[Scores]:
    """`seen`, with all that are of windows summed at label size: one map instead of a dozen."""
    total: Tensor | None = None
    for scores in seen:
        if not scores.windows:
            yield scores
            continue
        resized = resize_logits(scores.values, size)
        total = resized if total is None else total.add_(resized)
        del scores, resized  # before the next view is made: each may be hundreds of MiB
    if total is not None:
        yield Scores(total, average == "probabilities", windows=True)


def view_size(size: tuple[int, int], config: EvaluateConfig, scale: float) -> tuple[int, int]:
    """Height and width that a model sees of an image of `size` at one of the scales."""
    height, width = config.size or size
    if config.short_side is not None:
        factor = config.short_side / min(height, width)
        if config.long_side is not None:
            factor = min(factor, config.long_side / max(height, width))
        scale = scale * factor
    return max(1, round(height * scale)), max(1, round(width * scale))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side: a stride apart, the last one at the end."""
    last = max(0, length - window)
    return [*range(0, last, stride), last]


def _views(
    models: Sequence[Segmenter],
    images: Tensor,
    labels: Tensor | None,
    config: EvaluateConfig,
    mirrored: Sequence[int] | None,
) -> Iterator[list[Scores]]:
    """Scores of each scale and, with `flip`, of its mirror image, mirrored back; of every model.

    Labels are mirrored too. They keep their size: a model takes what it needs at its own.
    """
    _check_labels(models, labels)
    height, width = images.shape[-2:]
    for scale in config.scales:
        scaled = _resized(images, view_size((height, width), config, scale))
        yield _scores(models, scaled, labels, config)
        if config.flip:
            turned = None if labels is None else _mirrored_labels(labels, mirrored)
            seen = _scores(models, scaled.flip(-1), turned, config)
            yield [each._replace(values=_mirrored_scores(each.values, mirrored)) for each in seen]


def _check_labels(models: Sequence[Segmenter], labels: Tensor | None) -> None:
    if labels is None and any(model.needs_labels for model in models):
        raise DataError(
            "this model's regions are the ground truth, an upper bound for evaluation: "
            "it cannot predict images without labels"
        )


def _finite(scores: Tensor) -> Tensor:
    if not scores.isfinite().all():
        raise FloatingPointError("the model's logits are not finite")
    return scores


def _mirrored_scores(scores: Tensor, mirrored: Sequence[int] | None) -> Tensor:
    """Scores (N, K, h, w) of a mirror image at the places and of the classes of the image."""
    scores = scores.flip(-1)
    return scores if mirrored is None else scores[:, list(mirrored)]


def _mirrored_labels(labels: Tensor, mirrored: Sequence[int] | None) -> Tensor:
    swap = [(k, other) for k, other in enumerate(mirrored or ()) if k < other]
    return mirror_labels(labels, swap)


def _logits(models: Sequence[Segmenter], images: Tensor, labels: Tensor | None) -> Iterator[Tensor]:
    """Logits (N, K, h, w) of each model in turn, after one pass of the backbone they share."""
    shared = images if len(models) == 1 else models[0].backbone(images)
    for model in models:
        yield model(shared, labels).logits


def _scores(
    models: Sequence[Segmenter], images: Tensor, labels: Tensor | None, config: EvaluateConfig
) -> list[Scores]:
    """Of each model: logits of whole images, or the mean over windows."""
    height, width = images.shape[-2:]
    window, stride = config.window, config.stride
    if window is None or stride is None or (window[0] >= height and window[1] >= width):
        whole = _logits(models, images, labels)
        return [Scores(logits, probabilities=False, windows=False) for logits in whole]
    means = _window_means(models, images, labels, window, stride, config.average)
    return [Scores(mean, config.average == "probabilities", windows=True) for mean in means]


def _window_means(
    models: Sequence[Segmenter],
    images: Tensor,
    labels: Tensor | None,
    window: Size,
    stride: Size,
    average: str,
) -> list[Tensor]:
    """Probabilities or logits (N, K, H', W') of each model, averaged where windows overlap."""
    height, width = images.shape[-2:]
    tall, wide = min(window[0], height), min(window[1], width)
    totals: list[Tensor] = []
    counts = images.new_zeros(height, width)
    if labels is not None:  # windows see their part of the labels, at the size of the image
        labels = F.interpolate(labels[:, None].float(), (height, width), mode="nearest-exact")[:, 0]
    starts = window_starts(height, tall, stride[0]), window_starts(width, wide, stride[1])
    for top, left in itertools.product(*starts):
        box = (..., slice(top, top + tall), slice(left, left + wide))
        seen = _logits(models, images[box], None if labels is None else labels[box])
        for number, logits in enumerate(seen):
            scores = resize_logits(logits.float(), (tall, wide))
            if number == len(totals):
                totals.append(scores.new_zeros(*scores.shape[:2], height, width))
            totals[number][box] += scores.softmax(dim=1) if average == "probabilities" else scores
        counts[box] += 1
    return [total.div_(counts) for total in totals]


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (N, 3, H, W) at another size, filtered as training images are."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def _view(seen: Scores, height: int) -> View:
    """Prepare scores for `_resized_rows`, which see their rows as mixtures of few source rows.

    Resizing is linear and acts on rows and columns apart, so what it makes of the identity matrix
    are the weights of each source row in each resulting row; bilinear has two that are not zero.
    """
    scores = _finite(seen.values.float())
    identity = torch.eye(scores.shape[2], device=scores.device)[None, :, :, None]
    mixture = resize_logits(identity, (height, 1))[0, :, :, 0]  # (h, H)
    weights, sources = mixture.topk(min(2, len(mixture)), dim=0)  # (taps, H)
    return View(scores, weights, sources, seen.probabilities)


def _resized_rows(view: View, rows: slice, width: int) -> Tensor:
    """Rows of `resize_logits` (N, K, rows, W) without the others; equal up to float32 rounding."""
    taps = view.scores[:, :, view.sources[:, rows]]  # (N, K, taps, rows, w)
    mixed = (taps * view.weights[:, rows, None]).sum(dim=2)  # (N, K, rows, w)
    # Resizing and comparing classes are both faster with the classes side by side in memory.
    mixed = mixed.contiguous(memory_format=torch.channels_last)
    return resize_logits(mixed, (mixed.shape[2], width))


def strip_bytes(device: torch.device) -> int:
    """How much of the resized scores is held at a time."""
    return STRIP_BYTES_CPU if device.type == "cpu" else STRIP_BYTES_GPU


def _largest(
    views: Sequence[View], size: tuple[int, int], average: str, budget: int | None = None
) -> Tensor:
    """The class with the largest score at every pixel: (N, H, W) uint8 at `size`.

    `budget` are the bytes of a strip; those of the device unless given.
    """
    scores = views[0].scores
    n, num_classes = scores.shape[:2]
    budget = strip_bytes(scores.device) if budget is None else budget
    rows = max(1, budget // (4 * n * num_classes * size[1]))
    prediction = torch.empty(n, *size, dtype=torch.uint8, device=scores.device)
    for start in range(0, size[0], rows):
        strip = slice(start, start + rows)
        prediction[:, strip] = _summed(views, strip, size[1], average).max(dim=1).indices
    return prediction


def _summed(views: Sequence[View], rows: slice, width: int, average: str) -> Tensor:
    """What to take the largest of: the scores of a single view, the sum over several."""
    if len(views) == 1:
        return _resized_rows(views[0], rows, width)
    resized = (
        scores if view.probabilities or average == "logits" else scores.softmax(dim=1)
        for view in views
        for scores in [_resized_rows(view, rows, width)]
    )
    total = next(resized)
    for each in resized:  # one at a time: a strip of every view would be a dozen strips
        total += each
    return total
