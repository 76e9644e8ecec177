"""Scores of views at label size, a strip of rows at a time.

What models say of an image, or of windows of it, lies on the coarse grid of their features. Here it
is resized to the rows that are asked for and no others, so that no map of label size is held.

Axes: N images, K classes, (H, W) label pixels, (H', W') those of a view, (h, w) feature pixels,
height first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from contextbench.models.segmenter import resize_logits

COMBS = 4  # more rows than one that is resized is made of, so that none of these share a comb


class RowWeights(NamedTuple):
    """How the rows of a map combine to those of another height, each from at most two."""

    weights: Tensor  # (taps, H)
    sources: Tensor  # (taps, H) the row that a weight belongs to

    def mixed(self, scores: Tensor, rows: slice) -> Tensor:
        """Some rows (N, K, rows, w) of scores (N, K, h, w), which keep their width."""
        taps = scores[:, :, self.sources[:, rows]]  # (N, K, taps, rows, w)
        mixed = (taps * self.weights[:, rows, None]).sum(dim=2)
        # Resizing and comparing classes are both faster with the classes side by side in memory.
        return mixed.contiguous(memory_format=torch.channels_last)


def row_weights(
    height: int, target: int, device: torch.device, *, align_corners: bool = False
) -> RowWeights:
    """What `resize_logits` does to the rows of a map of `height`, to make `target` of them.

    It is linear and acts on rows and columns apart. So what it makes of a comb, which is 1 at every
    fourth row, is the weight of the one such row that is near; a ramp says which one that is.
    """
    rows = torch.arange(height, device=device)
    combs = rows % COMBS == torch.arange(COMBS, device=device)[:, None]  # (COMBS, h)
    maps = torch.cat([combs, rows[None]]).float()[None, :, :, None]
    mixed = resize_logits(maps, (target, 1), align_corners=align_corners)
    *resized, place = mixed[0, :, :, 0]
    weights, comb = torch.stack(resized).topk(min(2, height), dim=0)  # (taps, H)
    sources = comb + COMBS * ((place - comb) / COMBS).round().long()
    return RowWeights(weights, sources.clamp(0, height - 1))


class View(Protocol):
    """What one model says of one view of the images, at any rows of the labels."""

    @property
    def probabilities(self) -> bool:
        """Or logits."""
        ...

    @property
    def row_cells(self) -> int:
        """How many cells (N, K) each label row takes on the way."""
        ...

    @property
    def like(self) -> Tensor:
        """A tensor (N, K, ...) of the type and on the device of the scores."""
        ...

    def strip(self, rows: slice) -> Tensor:
        """(N, K, rows, W), as of `resize_logits` up to float32 rounding."""
        ...

    def turned(self, classes: Sequence[int] | None) -> Self:
        """The view of the mirror image, where this one shows the image: its classes too."""
        ...


@dataclass(frozen=True, eq=False)
class Whole:
    """A view that was seen in one piece."""

    scores: Tensor  # (N, K, h, w) float32 logits
    rows: RowWeights  # of h to H
    width: int  # W
    align_corners: bool = False  # how columns are resized

    probabilities = False

    @property
    def row_cells(self) -> int:
        return self.width

    @property
    def like(self) -> Tensor:
        return self.scores

    def strip(self, rows: slice) -> Tensor:
        mixed = self.rows.mixed(self.scores, rows)
        size = (mixed.shape[2], self.width)
        return resize_logits(mixed, size, align_corners=self.align_corners)

    def turned(self, classes: Sequence[int] | None) -> Self:
        return replace(self, scores=_turned(self.scores, classes))


class Window(NamedTuple):
    """Scores of a part of a view."""

    scores: Tensor  # (N, K, h, w) float32 logits
    top: int  # first row and column in the view
    left: int


@dataclass(frozen=True, eq=False)
class Windowed:
    """A view that was seen in windows of one size, the mean of which counts where they overlap.

    Windows may reach beyond the view, where it was padded on its right and below.
    """

    windows: Sequence[Window]
    window: tuple[int, int]  # their height and width in the view
    size: tuple[int, int]  # (H', W')
    target: tuple[int, int]  # (H, W)
    rows: RowWeights  # of h to the height of a window
    outer: RowWeights  # of H' to H
    probabilities: bool  # what the mean is of
    align_corners: bool = False  # how columns are resized

    @property
    def row_cells(self) -> int:
        """Of a label row, or of the rows of the view that it is made of."""
        view_rows = -(-self.size[0] // self.target[0])
        return max(self.target[1], view_rows * self.size[1])

    @property
    def like(self) -> Tensor:
        return self.windows[0].scores

    def strip(self, rows: slice) -> Tensor:
        if self.size == self.target:
            return self._means(rows.start, rows.stop)
        weights, sources = (part[:, rows] for part in self.outer)
        first, last = int(sources.min()), int(sources.max())
        means = self._means(first, last + 1)
        mixed = RowWeights(weights, sources - first).mixed(means, slice(None))
        return self._resized(mixed, self.target[1])

    def turned(self, classes: Sequence[int] | None) -> Self:
        end = self.size[1] - self.window[1]
        turned = [Window(_turned(w.scores, classes), w.top, end - w.left) for w in self.windows]
        return replace(self, windows=turned)

    def _means(self, start: int, stop: int) -> Tensor:
        """(N, K, rows, W') of some rows of the view."""
        n, num_classes = self.like.shape[:2]
        shape = (n, num_classes, stop - start, self.size[1])
        total = self.like.new_empty(shape).contiguous(memory_format=torch.channels_last).zero_()
        counts = self.like.new_zeros(shape[2:])
        for window in self.windows:
            top = max(start, window.top)
            bottom = min(stop, window.top + self.window[0])
            if top >= bottom:
                continue
            own = self._window_rows(window, slice(top - window.top, bottom - window.top))
            left, right = max(0, window.left), min(shape[3], window.left + self.window[1])
            columns = slice(left, right)
            own = own[..., left - window.left : right - window.left]
            total[:, :, top - start : bottom - start, columns] += own
            counts[top - start : bottom - start, columns] += 1
        return total.div_(counts)

    def _window_rows(self, window: Window, rows: slice) -> Tensor:
        mixed = self.rows.mixed(window.scores, rows)
        resized = self._resized(mixed, self.window[1])
        return resized.softmax(dim=1) if self.probabilities else resized

    def _resized(self, mixed: Tensor, width: int) -> Tensor:
        size = (mixed.shape[2], width)
        return resize_logits(mixed, size, align_corners=self.align_corners)


def _turned(scores: Tensor, classes: Sequence[int] | None) -> Tensor:
    """Scores (N, K, h, w) of a mirror image at the places and of the classes of the image."""
    scores = scores.flip(-1)
    return scores if classes is None else scores[:, list(classes)]
