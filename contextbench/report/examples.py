"""Some images of the evaluated split, with what each head makes of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class AttentionMap:
    """What one pixel of an image attends to in one head: a map, or a vector over named parts."""

    head: str
    kind: str  # e.g. `attention`, `regions`, `codewords`, `influence`; one word, as the head says
    image: str  # name in `Examples.names`, or of a file
    pixel: tuple[int, int]  # (y, x) in the image
    cell: tuple[int, int]  # (row, column) of the feature map that the pixel falls in
    values: npt.NDArray[np.float32]  # (h, w) on the feature map, or (n,); raw, nothing clipped
    meaning: str  # what the values are, one sentence
    labels: Sequence[str] = ()  # of the n parts of a vector


@dataclass(frozen=True)
class Examples:
    """Some images with what each head predicts for them; all lists have one item an image."""

    names: list[str]
    images: list[npt.NDArray[np.uint8]]  # (H, W, 3)
    truths: list[npt.NDArray[np.uint8]]  # (H, W) train ids, 255 where not labelled
    predictions: Mapping[str, list[npt.NDArray[np.uint8]]]  # head -> (H, W) train ids
    attention: Sequence[AttentionMap] = ()
