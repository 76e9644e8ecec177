"""Predictions in the files that a benchmark's server or toolkit reads.

Axes: (H, W) image pixels. Does not need torch.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Submission:
    """One PNG with raw values for each image.

    `raw_values` holds what the benchmark calls train id 0, 1, ... K-1: numbers, or RGB colours.
    `palette`, one colour for each number, makes it an indexed PNG (mode P); otherwise it is grey
    (mode L), or RGB. `folders` keeps those of an image's name.
    """

    raw_values: tuple[int, ...] | tuple[Colour, ...]
    palette: tuple[Colour, ...] | None = None
    folders: bool = False
    suffix: str = ".png"

    def encode(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W) train ids -> (H, W) raw values, or (H, W, 3) colours.

        Raises ValueError for what is no train id.
        """
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
        """The file, below the folder of all, for the image `name` of a dataset.

        Benchmarks find a prediction by the name of its image: Cityscapes by
        CITY_SEQUENCE_FRAME at the start, the others by the whole stem.
        """
        return (name if self.folders else PurePosixPath(name).name) + self.suffix
