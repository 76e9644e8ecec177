"""Augmentation of an image together with its label map, and the normalisation of images.

Axes: (H, W) image pixels, (h, w) crop. All randomness comes from the generator passed in.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from contextbench.data.base import IGNORE, DataError

# ImageNet statistics of RGB values in 0 .. 1, which pretrained weights expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class _Span(NamedTuple):
    """One axis of a scaled crop: `length` source pixels from `start` fill `filled` of the crop."""

    start: int
    length: int
    filled: int
    offset: int  # where in the crop they begin; the rest is padding


class TrainTransform:
    """Random scale, crop with padding, flip and colour jitter, then normalisation.

    `crop` is (h, w); `scale` the range of a uniform factor on height and width alike; `jitter` in
    0 .. 1 the largest relative change of brightness, contrast and saturation (0: none); `swap` the
    pairs of train ids that a flip exchanges (`LabelSet.swap`). Padding is the mean (0 after
    normalisation) in the image and `IGNORE` in the label map, at random sides.
    """

    def __init__(
        self,
        *,
        crop: tuple[int, int],
        scale: tuple[float, float],
        flip: bool,
        jitter: float,
        swap: Sequence[tuple[int, int]] = (),
    ) -> None:
        if not 0 < scale[0] <= scale[1]:
            raise DataError(f"scale {list(scale)} must be [low, high] with 0 < low <= high")
        if min(crop) < 1 or not 0 <= jitter <= 1:
            raise DataError(f"crop {list(crop)} must be positive and jitter {jitter} within 0 .. 1")
        self.crop, self.scale, self.flip, self.jitter = crop, scale, flip, jitter
        self.swap = tuple(swap)

    def __call__(
        self, image: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """(3, H, W) uint8 and (H, W) uint8 -> (3, h, w) float32 normalised and (h, w) uint8."""
        scale = _uniform(*self.scale, generator)
        rows = _draw_span(labels.shape[0], self.crop[0], scale, generator)
        columns = _draw_span(labels.shape[1], self.crop[1], scale, generator)
        mirror = bool(torch.rand((), generator=generator) < 0.5) and self.flip
        image, mask = _resized_window(image, labels[None], rows, columns)
        if mirror:
            image, mask = F.horizontal_flip(image), mirror_labels(mask, self.swap)
        if self.jitter:
            image = _jittered(image, self.jitter, generator)
        padding = _padding(rows, columns, self.crop)
        return (
            F.pad(normalise(image), padding, fill=0.0),
            F.pad(mask, padding, fill=IGNORE)[0],
        )


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
    """`DataError` when no image of `image_size` (H, W), scaled by `scale` at most, fills `crop`.

    A crop that exceeds the largest scaled image along an axis is padded in every sample, which is
    a mistake in the configuration; padding at smaller factors is a usual part of training.
    """
    largest = tuple(round(side * scale[1]) for side in image_size)
    if crop[0] > largest[0] or crop[1] > largest[1]:
        raise DataError(
            f"crop {list(crop)} is larger than any scaled image: images are {list(image_size)}, "
            f"scale {list(scale)} makes them {list(largest)} at most (height, width)"
        )


def _draw_span(side: int, crop: int, scale: float, generator: Generator) -> _Span:
    """Choose where the crop lies on the scaled axis, in source pixels.

    The window is cut before resizing, so its length is rounded to whole source pixels; the factor
    then differs from `scale` by less than one pixel over the crop.
    """
    length = max(1, round(crop / scale))
    if length <= side:
        return _Span(_below(side - length + 1, generator), length, crop, 0)
    filled = min(crop, max(1, round(side * scale)))
    return _Span(0, side, filled, _below(crop - filled + 1, generator))


def _resized_window(
    image: Tensor, mask: Tensor, rows: _Span, columns: _Span
) -> tuple[Tensor, Tensor]:
    """The part of (3, H, W) and (1, H, W) that the crop shows, at the crop's resolution."""
    box = (rows.start, columns.start, rows.length, columns.length)
    image, mask = F.crop(image, *box), F.crop(mask, *box)
    size = [rows.filled, columns.filled]
    if size == [rows.length, columns.length]:
        return image, mask
    image = F.resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    # The "exact" variant samples pixel centres as bilinear does; the other is off by half a pixel.
    return image, F.resize(mask, size, interpolation=InterpolationMode.NEAREST_EXACT)


def _jittered(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Brightness, contrast, saturation, each by a factor in 1 - strength .. 1 + strength."""
    for adjust in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
        image = adjust(image, _uniform(1 - strength, 1 + strength, generator))
    return image


def _padding(rows: _Span, columns: _Span, crop: tuple[int, int]) -> list[int]:
    """Left, top, right, bottom."""
    bottom = crop[0] - rows.offset - rows.filled
    right = crop[1] - columns.offset - columns.filled
    return [columns.offset, rows.offset, right, bottom]


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def _below(bound: int, generator: Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
