"""How many windows of an image go through a model at once.

Axes: N images, (h, w) window, height first.
"""

import logging
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from contextbench.models.segmenter import Segmenter

Fitting = Callable[[Segmenter, tuple[int, int, int, int]], int]
"""Batches of a shape (N, 3, h, w) that fit into memory at once, 1 at least."""

log = logging.getLogger(__name__)


class WindowBatches:
    """How many windows are seen at once: as many as are asked for, and fewer once they do not fit.

    `auto` are those that are `fitting`; without that, one.
    """

    def __init__(self, fitting: Fitting | None = None) -> None:
        self._fitting = fitting
        self._fit: dict[tuple[int, ...], int] = {}
        self._said = False

    def at_once(self, wanted: int | Literal["auto"], model: Segmenter, window: Tensor) -> int:
        """Of windows (N, 3, h, w), of which one is given."""
        n, channels, height, width = window.shape
        shape = (n, channels, height, width)
        if shape not in self._fit:
            if wanted == "auto":
                wanted = 1 if self._fitting is None else self._fitting(model, shape)
            self._fit[shape] = wanted
        return self._fit[shape]

    def halve(self, count: int, window: Tensor) -> None:
        """From here on half of `count`, for which memory does not suffice. Said the first time."""
        self._fit[tuple(window.shape)] = count // 2
        if not self._said:
            height, width = window.shape[2:]
            log.warning(
                "memory does not suffice for %d windows of %dx%d at once: halved until they fit "
                "(evaluate.window_batch)", count, height, width,
            )  # fmt: skip
        self._said = True
