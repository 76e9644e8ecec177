"""Which part of an image a training crop shows, and cutting it out at the crop's resolution.

Axes: (H, W) source image, (h, w) crop. A window is cut before it is resized, so that the cost is
that of the crop and not that of the scaled image. Images are interpolated bilinearly, label maps by
the nearest pixel; what lies beyond the image is padding: the mean (0 after normalisation) in the
image and `IGNORE` in the label map.
"""

import math
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from contextbench.data.base import IGNORE


class Span(NamedTuple):
    """One axis of a scaled crop: `length` source pixels from `start` fill `filled` of the crop."""

    start: int
    length: int
    filled: int
    offset: int  # where in the crop they begin; the rest is padding

    @property
    def step(self) -> float:
        """Source pixels per pixel of the crop."""
        return self.length / self.filled


def draw_span(side: int, crop: int, scale: float, generator: Generator) -> Span:
    """Choose where the crop lies on the scaled axis, in source pixels.

    The window is cut before resizing, so its length is rounded to whole source pixels; the factor
    then differs from `scale` by less than one pixel over the crop.
    """
    length = max(1, round(crop / scale))
    if length <= side:
        return Span(_below(side - length + 1, generator), length, crop, 0)
    filled = min(crop, max(1, round(side * scale)))
    return Span(0, side, filled, _below(crop - filled + 1, generator))


class Window:
    """A crop of (h, w) with sides parallel to those of the image."""

    def __init__(self, rows: Span, columns: Span, crop: tuple[int, int]) -> None:
        self.rows, self.columns, self.crop = rows, columns, crop

    def image(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, h, w) uint8, smaller where the crop has padding."""
        return _resized(image, self.rows, self.columns, InterpolationMode.BILINEAR)

    def labels(self, labels: Tensor) -> Tensor:
        """(H, W) uint8 -> (1, h, w) uint8, smaller where the crop has padding."""
        # The "exact" variant samples pixel centres as bilinear does; the other is off by half a
        # pixel.
        return _resized(labels[None], self.rows, self.columns, InterpolationMode.NEAREST_EXACT)

    def padded(self, image: Tensor, mask: Tensor, *, mirrored: bool) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Fill up what `image` and `labels` gave, normalised meanwhile, to (3, h, w) and (h, w).

        Padding is at the drawn sides, of a mirrored crop too.
        """
        bottom = self.crop[0] - self.rows.offset - self.rows.filled
        right = self.crop[1] - self.columns.offset - self.columns.filled
        padding = [self.columns.offset, self.rows.offset, right, bottom]
        return F.pad(image, padding, fill=0.0), F.pad(mask, padding, fill=IGNORE)[0]


class TurnedWindow(Window):
    """A crop turned about its own centre by `degrees`: what it shows turns counter-clockwise.

    Its corners show what the image has beyond the upright crop; only beyond the image is padding.
    A part of the image that encloses the crop is resized first, so that shrinking does not alias,
    and is sampled then at the turned positions.
    """

    def __init__(
        self,
        rows: Span,
        columns: Span,
        crop: tuple[int, int],
        degrees: float,
        size: tuple[int, int],  # of the image, (H, W)
    ) -> None:
        super().__init__(rows, columns, crop)
        self.cosine, self.sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        height, width = crop
        cosine, sine = abs(self.cosine), abs(self.sine)
        self._enclosing = (
            _enclosing(rows, height, height * cosine + width * sine, size[0]),
            _enclosing(columns, width, width * cosine + height * sine, size[1]),
        )

    def image(self, image: Tensor) -> Tensor:
        patch = _resized(image, *self._enclosing, InterpolationMode.BILINEAR)
        return self._sampled(patch, "bilinear").round().to(torch.uint8)

    def labels(self, labels: Tensor) -> Tensor:
        patch = _resized(labels[None], *self._enclosing, InterpolationMode.NEAREST_EXACT)
        mask = self._sampled(patch, "nearest").to(torch.uint8)
        return mask.masked_fill(self._beyond, IGNORE)

    def padded(self, image: Tensor, mask: Tensor, *, mirrored: bool) -> tuple[Tensor, Tensor]:
        beyond = self._beyond.flip(-1) if mirrored else self._beyond
        return image.masked_fill(beyond, 0.0), mask[0]

    @cached_property
    def _positions(self) -> Tensor:
        """Where each pixel of the crop lies in the enclosing part, (h, w, 2): x, y in -1 .. 1.

        A crop pixel at (dy, dx) from the centre shows what is at (cos dy + sin dx,
        -sin dy + cos dx) from it.
        """
        height, width = self.crop
        dy = (torch.arange(height) + 0.5 - height / 2)[:, None]
        dx = torch.arange(width) + 0.5 - width / 2
        y = _relative(self.cosine * dy + self.sine * dx, self.rows, height, self._enclosing[0])
        x = _relative(self.cosine * dx - self.sine * dy, self.columns, width, self._enclosing[1])
        return torch.stack((x, y), dim=-1)

    @cached_property
    def _beyond(self) -> Tensor:
        """Which pixels of the crop are beyond the image, (h, w)."""
        return (self._positions.abs() > 1).any(dim=-1)

    def _sampled(self, patch: Tensor, mode: str) -> Tensor:
        """(C, h', w') -> (C, h, w) float. Beyond the patch its border goes on, to be replaced."""
        positions = self._positions[None]
        return grid_sample(
            patch[None].float(), positions, mode=mode, padding_mode="border", align_corners=False
        )[0]


def _resized(picture: Tensor, rows: Span, columns: Span, mode: InterpolationMode) -> Tensor:
    """The part of (C, H, W) that the spans name, at the crop's resolution."""
    part: Tensor = F.crop(picture, rows.start, columns.start, rows.length, columns.length)
    size = [rows.filled, columns.filled]
    if size != [rows.length, columns.length]:
        part = F.resize(part, size, interpolation=mode, antialias=True)
    return part


def _centre(span: Span, crop: int) -> float:
    """Of the crop, in source pixels; beyond the image where most of the crop is padding."""
    return span.start + (crop / 2 - span.offset) * span.step


def _enclosing(span: Span, crop: int, extent: float, side: int) -> Span:
    """What a crop of `extent` about the same centre shows, and a pixel more, within the image."""
    centre, reach = _centre(span, crop), extent / 2 * span.step + 1
    start = min(max(math.floor(centre - reach), 0), side - 1)
    end = max(min(math.ceil(centre + reach), side), start + 1)
    return Span(start, end - start, max(1, round((end - start) / span.step)), 0)


def _relative(offset: Tensor, span: Span, crop: int, enclosing: Span) -> Tensor:
    """Crop pixels from the crop's centre -> -1 .. 1 across the enclosing part, whole pixels."""
    source = _centre(span, crop) + offset * span.step
    return 2 * (source - enclosing.start) / enclosing.length - 1


def _below(bound: int, generator: Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
