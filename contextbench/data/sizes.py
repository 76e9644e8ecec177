"""How large the images of a split are, from their headers.

Axes: (H, W) image pixels, height first.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median_low

from contextbench.data.base import DataError, SegmentationDataset
from contextbench.data.transforms import check_crop

Size = tuple[int, int]


@dataclass(frozen=True)
class ImageSizes:
    """Of the images whose headers can be read."""

    median: Size  # of the image in the middle, ordered by pixels, then height
    smallest: Size
    largest: Size

    @property
    def differ(self) -> bool:
        """Whether not all images have one size."""
        return self.smallest != self.largest

    @property
    def described(self) -> str:
        """Where they differ, for a reader."""
        smallest, largest, median = (
            "x".join(map(str, each)) for each in (self.smallest, self.largest, self.median)
        )
        return f"Images are from {smallest} to {largest}, the median is {median}"


def image_sizes(dataset: SegmentationDataset) -> ImageSizes:
    """Raises `DataError` where no image has a size."""
    found = sorted((height * width, height, width) for _, (height, width) in _readable(dataset))
    _, *middle = median_low(found)
    (_, *smallest), (_, *largest) = found[0], found[-1]
    return ImageSizes(*((height, width) for height, width in (middle, smallest, largest)))


def check_crops(dataset: SegmentationDataset, crop: Size, scale: tuple[float, float]) -> None:
    """`DataError`, naming the largest, when no image of `dataset`, scaled, fills `crop`.

    In whatever order they are: headers are read until one image does.
    """
    unfilled: list[tuple[int, Size]] = []
    for index, size in _readable(dataset):
        try:
            check_crop(crop, size, scale)
        except DataError:
            unfilled.append((index, size))
        else:
            return
    largest, size = max(unfilled, key=lambda each: math.prod(each[1]))
    try:
        check_crop(crop, size, scale)
    except DataError as error:
        raise DataError(f"{error}; that is {_name(dataset, largest)} of {len(dataset)}") from None


def _name(dataset: SegmentationDataset, index: int) -> str:
    try:
        return dataset[index].name
    except DataError:
        return f"image {index}"


def _readable(dataset: SegmentationDataset) -> Iterator[tuple[int, Size]]:
    """Numbers and sizes, in their order. Damaged ones are found where they are decoded.

    Raises `DataError` where all are.
    """
    failed: DataError | None = None
    readable = 0
    for index in range(len(dataset)):
        try:
            size = dataset.image_size(index)
        except DataError as error:
            failed = failed or error
            continue
        readable += 1
        yield index, size
    if failed is not None and not readable:
        raise failed
