"""What one pixel of an image attends to: a map over it, or a vector over named parts. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AttentionMap:
    """What one pixel of an image attends to in one head: a map, or a vector over named parts."""

    head: str
    kind: str  # e.g. `attention`, `regions`, `codewords`, `influence`; one word, as the head says
    image: str  # name in `Examples.names`, or of a file
    pixel: tuple[int, int]  # (y, x) in the image
    cell: tuple[int, int]  # (row, column) of the feature map that the pixel falls in
    values: FloatArray  # (h, w) on the feature map, or (n,); raw, nothing clipped
    meaning: str  # what the values are, one sentence
    labels: Sequence[str] = ()  # of the n parts of a vector; of a map that shows one part, its name


INFLUENCE = "influence"  # the kind that every head has


def cell_of(
    pixel: tuple[int, int], size: tuple[int, int], cells: tuple[int, int]
) -> tuple[int, int]:
    """(row, column) of the feature cell over the centre of `pixel` (y, x) in an image of `size`.

    The (h, w) `cells` divide the image evenly, as the resizing of logits has it.
    """
    row, column = (
        (2 * at + 1) * count // (2 * length)
        for at, length, count in zip(pixel, size, cells, strict=True)
    )
    return row, column


def cell_box(
    cell: tuple[int, int], size: tuple[int, int], cells: tuple[int, int]
) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) of a cell in image pixels: edges that may fall within a pixel."""
    (top, bottom), (left, right) = (
        (at * length / count, (at + 1) * length / count)
        for at, length, count in zip(cell, size, cells, strict=True)
    )
    return top, left, bottom, right


def no_attention(maps: Sequence[AttentionMap]) -> list[str]:
    """A sentence on the heads that have nothing but the influence, if there are any."""
    others = {each.head for each in maps if each.kind != INFLUENCE}
    without = [head for head in dict.fromkeys(each.head for each in maps) if head not in others]
    if not without:
        return []
    return [f"Without attention, so the influence stands alone: {', '.join(without)}."]


def sums_to_one(values: FloatArray) -> bool:
    """Whether values are weights of which a pixel has one in all, up to float32 rounding."""
    return abs(float(values.sum(dtype=np.float64)) - 1) < 1e-3
