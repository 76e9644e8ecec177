"""Predictions in the files that a benchmark's server or toolkit reads.

Axes: (H, W) image pixels. Does not need torch.
"""

from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Submission:
    """One PNG with raw values for each image.

    `raw_values` holds what the benchmark calls train id 0, 1, ... K-1; `palette`, one RGB colour
    for each raw value, makes it an indexed PNG (mode P), else it is grey (mode L).
    """

    raw_values: tuple[int, ...]
    palette: tuple[tuple[int, int, int], ...] | None = None

    def encode(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W) train ids -> (H, W) raw values. Raises ValueError for what is no train id."""
        highest = int(labels.max(initial=0))
        if highest >= len(self.raw_values):
            raise ValueError(f"{highest} is no train id: there are {len(self.raw_values)} classes")
        return np.array(self.raw_values, dtype=np.uint8)[labels]

    def picture(self, labels: NDArray[np.uint8]) -> Image.Image:
        """The file's content for (H, W) train ids; to be saved as PNG."""
        image = Image.fromarray(self.encode(labels))
        if self.palette is not None:
            image.putpalette([value for colour in self.palette for value in colour])
        return image

    def file_name(self, name: str) -> str:
        """Name of the file for the image `name` of a dataset; folders of the name are left out.

        Benchmarks find a prediction by the name of its image: Cityscapes by
        CITY_SEQUENCE_FRAME at the start, the others by the whole stem.
        """
        return f"{PurePath(name).name}.png"
