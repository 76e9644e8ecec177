"""Augmentation of an image together with its label map, and the normalisation of images.

Axes: (H, W) image pixels, (h, w) crop. All randomness comes from the generator passed in.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from contextbench.data.base import IGNORE, DataError
from contextbench.data.windows import TurnedWindow, Window, draw_span

# ImageNet statistics of RGB values in 0 .. 1, which pretrained weights expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
REDRAWS = 10  # of a crop in which one class covers too much


class TrainTransform:
    """Random scale, crop with padding, flip and colour jitter, then normalisation.

    `crop` is (h, w); `scale` the range of a uniform factor on height and width alike; `jitter` in
    0 .. 1 the largest relative change of brightness, contrast and saturation (0: none); `swap` the
    pairs of train ids that a flip exchanges (`LabelSet.swap`). Padding is the mean (0 after
    normalisation) in the image and `IGNORE` in the label map, at random sides.

    Off by default: `rotate` turns the crop about its centre by up to so many degrees to either
    side; `aspect` is the range of a uniform ratio a of width over height, which scales the width
    by sqrt(a) and the height by 1 / sqrt(a), as OCNet and OCR were trained; with `max_class_share`
    another place is drawn, up to ten times, while one class covers a larger share of the crop's
    labelled pixels or none is labelled. All randomness an option needs is drawn only if it is on.
    """

    def __init__(
        self,
        *,
        crop: tuple[int, int],
        scale: tuple[float, float],
        flip: bool,
        jitter: float,
        swap: Sequence[tuple[int, int]] = (),
        rotate: float = 0.0,
        aspect: tuple[float, float] = (1.0, 1.0),
        max_class_share: float | None = None,
    ) -> None:
        for name, (low, high) in (("scale", scale), ("aspect", aspect)):
            if not 0 < low <= high:
                raise DataError(f"{name} {[low, high]} must be [low, high] with 0 < low <= high")
        if min(crop) < 1 or not 0 <= jitter <= 1:
            raise DataError(f"crop {list(crop)} must be positive and jitter {jitter} within 0 .. 1")
        if not 0 <= rotate <= 180:
            raise DataError(f"rotate {rotate} must be within 0 .. 180 degrees")
        if max_class_share is not None and not 0 < max_class_share <= 1:
            raise DataError(f"max_class_share {max_class_share} must be above 0 and at most 1")
        self.crop, self.scale, self.flip, self.jitter = crop, scale, flip, jitter
        self.swap, self.rotate, self.aspect = tuple(swap), rotate, aspect
        self.max_class_share = max_class_share

    def __call__(
        self, image: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """(3, H, W) uint8 and (H, W) uint8 -> (3, h, w) float32 normalised and (h, w) uint8."""
        window, mask = self._draw(labels, generator)
        mirror = bool(torch.rand((), generator=generator) < 0.5) and self.flip
        image = window.image(image)
        if mirror:
            image, mask = F.horizontal_flip(image), mirror_labels(mask, self.swap)
        if self.jitter:
            image = _jittered(image, self.jitter, generator)
        return window.padded(normalise(image), mask, mirrored=mirror)

    def _draw(self, labels: Tensor, generator: Generator) -> tuple[Window, Tensor]:
        """Scale, angle and place of the crop, with the labels it shows."""
        scale, stretch, degrees = _uniform(*self.scale, generator), 1.0, 0.0
        if self.aspect != (1.0, 1.0):
            stretch = math.sqrt(_uniform(*self.aspect, generator))
        if self.rotate:
            degrees = _uniform(-self.rotate, self.rotate, generator)
        scales = scale / stretch, scale * stretch
        window = self._place(labels, scales, degrees, generator)
        mask = window.labels(labels)
        if self.max_class_share is not None:
            for _ in range(REDRAWS):
                if not _too_uniform(mask, self.max_class_share):
                    break
                window = self._place(labels, scales, degrees, generator)
                mask = window.labels(labels)
        return window, mask

    def _place(
        self, labels: Tensor, scales: tuple[float, float], degrees: float, generator: Generator
    ) -> Window:
        size = (labels.shape[0], labels.shape[1])
        rows = draw_span(size[0], self.crop[0], scales[0], generator)
        columns = draw_span(size[1], self.crop[1], scales[1], generator)
        if self.rotate:
            return TurnedWindow(rows, columns, self.crop, degrees, size)
        return Window(rows, columns, self.crop)


def mirror_labels(labels: Tensor, swap: Sequence[tuple[int, int]]) -> Tensor:
    """Label maps (..., H, W) of mirrored images: flipped, with the classes of each pair exchanged.

    Any integer type; `IGNORE` stays. Doing it twice gives the labels back.
    """
    flipped = labels.flip(-1)
    if not swap:
        return flipped
    table = torch.arange(IGNORE + 1, dtype=labels.dtype, device=labels.device)
    for left, right in swap:
        table[left], table[right] = right, left
    return table[flipped.to(torch.int64)]


def normalise(image: Tensor) -> Tensor:
    """(3, H, W) or (N, 3, H, W) uint8 RGB -> float32 of the same shape, ImageNet statistics."""
    mean = torch.tensor(MEAN, device=image.device).view(3, 1, 1)
    std = torch.tensor(STD, device=image.device).view(3, 1, 1)
    return image.to(torch.float32).div_(255).sub_(mean).div_(std)


def check_crop(
    crop: tuple[int, int], image_size: tuple[int, int], scale: tuple[float, float]
) -> None:
    """`DataError` when an image of `image_size` (H, W), scaled by `scale` at most, is below `crop`.

    A crop that exceeds the largest scaled image along an axis is padded in every sample, which is
    a mistake in the configuration; padding at smaller factors is a usual part of training.
    """
    largest = tuple(round(side * scale[1]) for side in image_size)
    if crop[0] > largest[0] or crop[1] > largest[1]:
        raise DataError(
            f"crop {list(crop)} is larger than any scaled image: the largest is "
            f"{list(image_size)}, which scale {list(scale)} makes {list(largest)} at most "
            "(height, width)"
        )


def _too_uniform(labels: Tensor, most: float) -> bool:
    """Whether one class covers more than `most` of the labelled pixels, or none is labelled."""
    counts = torch.bincount(labels.flatten(), minlength=IGNORE + 1)[:IGNORE]
    return not 0 < int(counts.max()) <= most * int(counts.sum())


def _jittered(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Brightness, contrast, saturation, each by a factor in 1 - strength .. 1 + strength."""
    for adjust in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
        image = adjust(image, _uniform(1 - strength, 1 + strength, generator))
    return image


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()
