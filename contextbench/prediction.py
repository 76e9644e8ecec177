"""Predictions at label size from one model or several, without full-size logits where possible.

Logits are resized, compared and thrown away a strip of rows at a time, so memory holds a few MiB of
them whatever the size of the image. Windows are the exception: they overlap, so that their sum is
kept at image size, 4 K H W bytes.

Axes: N images, K classes, (H, W) label pixels, (h, w) feature pixels, height first.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from contextbench.config import EvaluateConfig
from contextbench.data.base import DataError
from contextbench.data.transforms import mirror_labels, normalise
from contextbench.model import Segmenter, resize_logits
from contextbench.precision import Precision

# A strip that stays in a processor's cache halves the time of comparing it; a GPU wants large ones.
STRIP_BYTES_CPU = 4 * 2**20
STRIP_BYTES_GPU = 128 * 2**20


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

    @torch.inference_mode()
    def __call__(
        self, image: Tensor, size: tuple[int, int], *, labels: Tensor | None = None
    ) -> Tensor:
        """Train ids (H, W) uint8 at `size`, on `device`, for one image (3, H', W') uint8.

        `labels` (H, W) matter only to a model that needs them. Otherwise as `predict_labels`.
        """
        layout = self.precision.torch_memory_format
        images = normalise(image[None].to(self.device)).to(memory_format=layout)
        truth = None if labels is None else labels[None].to(self.device)
        with self.precision.autocast(self.device):
            return predict_labels(
                self.models,
                images,
                size,
                labels=truth,
                config=self.config,
                mirrored=self.mirrored,
            )[0]


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
    if labels is None and any(model.needs_labels for model in models):
        raise DataError(
            "this model's regions are the ground truth, an upper bound for evaluation: "
            "it cannot predict images without labels"
        )
    seen = (_views(model, images, labels, config, mirrored) for model in models)
    views = [_view(*each, size[0]) for each in itertools.chain.from_iterable(seen)]
    n, num_classes = views[0].scores.shape[:2]
    budget = STRIP_BYTES_CPU if images.device.type == "cpu" else STRIP_BYTES_GPU
    rows = max(1, budget // (4 * n * num_classes * size[1]))
    prediction = torch.empty(n, *size, dtype=torch.uint8, device=images.device)
    for start in range(0, size[0], rows):
        strip = slice(start, start + rows)
        total = _summed(views, strip, size[1], config.average)
        prediction[:, strip] = total.max(dim=1).indices
    return prediction


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
    model: Segmenter,
    images: Tensor,
    labels: Tensor | None,
    config: EvaluateConfig,
    mirrored: Sequence[int] | None,
) -> Iterator[tuple[Tensor, bool]]:
    """Scores (N, K, h, w) of each scale and, with `flip`, of its mirror image, mirrored back.

    The flag says whether they are probabilities. Labels are mirrored too. They keep their size:
    the model takes what it needs at its own.
    """
    height, width = images.shape[-2:]
    for scale in config.scales:
        scaled = _resized(images, view_size((height, width), config, scale))
        yield _scores(model, scaled, labels, config)
        if config.flip:
            turned = None if labels is None else _mirrored_labels(labels, mirrored)
            scores, probabilities = _scores(model, scaled.flip(-1), turned, config)
            scores = scores.flip(-1)
            yield scores if mirrored is None else scores[:, list(mirrored)], probabilities


def _mirrored_labels(labels: Tensor, mirrored: Sequence[int] | None) -> Tensor:
    swap = [(k, other) for k, other in enumerate(mirrored or ()) if k < other]
    return mirror_labels(labels, swap)


def _scores(
    model: Segmenter, images: Tensor, labels: Tensor | None, config: EvaluateConfig
) -> tuple[Tensor, bool]:
    """Logits of whole images (N, K, h, w), or the mean over windows (N, K, H', W')."""
    height, width = images.shape[-2:]
    if config.window is None or config.stride is None:
        return model(images, labels).logits, False
    if config.window[0] >= height and config.window[1] >= width:
        return model(images, labels).logits, False
    tall, wide = min(config.window[0], height), min(config.window[1], width)
    total, counts = images.new_zeros(()), images.new_zeros(height, width)
    if labels is not None:  # windows see their part of the labels, at the size of the image
        labels = F.interpolate(labels[:, None].float(), (height, width), mode="nearest-exact")[:, 0]
    starts = [
        window_starts(height, tall, config.stride[0]),
        window_starts(width, wide, config.stride[1]),
    ]
    probabilities = config.average == "probabilities"
    for top, left in itertools.product(*starts):
        box = (..., slice(top, top + tall), slice(left, left + wide))
        logits = model(images[box], None if labels is None else labels[box]).logits.float()
        scores = resize_logits(logits, (tall, wide))
        if total.dim() == 0:
            total = scores.new_zeros(*scores.shape[:2], height, width)
        total[box] += scores.softmax(dim=1) if probabilities else scores
        counts[box] += 1
    return total / counts, probabilities


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (N, 3, H, W) at another size, filtered as training images are."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def _view(scores: Tensor, probabilities: bool, height: int) -> View:
    """Prepare scores for `_resized_rows`, which see their rows as mixtures of few source rows.

    Resizing is linear and acts on rows and columns apart, so what it makes of the identity matrix
    are the weights of each source row in each resulting row; bilinear has two that are not zero.
    """
    scores = scores.float()
    if not scores.isfinite().all():
        raise FloatingPointError("the model's logits are not finite")
    identity = torch.eye(scores.shape[2], device=scores.device)[None, :, :, None]
    mixture = resize_logits(identity, (height, 1))[0, :, :, 0]  # (h, H)
    weights, sources = mixture.topk(min(2, len(mixture)), dim=0)  # (taps, H)
    return View(scores, weights, sources, probabilities)


def _resized_rows(view: View, rows: slice, width: int) -> Tensor:
    """Rows of `resize_logits` (N, K, rows, W) without the others; equal up to float32 rounding."""
    taps = view.scores[:, :, view.sources[:, rows]]  # (N, K, taps, rows, w)
    mixed = (taps * view.weights[:, rows, None]).sum(dim=2)  # (N, K, rows, w)
    # Resizing and comparing classes are both faster with the classes side by side in memory.
    mixed = mixed.contiguous(memory_format=torch.channels_last)
    return resize_logits(mixed, (mixed.shape[2], width))


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
