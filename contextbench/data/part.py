"""A fixed part of a split."""

from contextbench.data.base import Sample, SegmentationDataset
from contextbench.data.sheet import spread


class Part:
    """So many `images` of a split at equal distances: of L images those of index  i L // images.

    Splits are in the order of their names, so that their first images are often those of one city
    or one video.
    """

    def __init__(self, whole: SegmentationDataset, images: int) -> None:
        self.whole = whole
        self.labels = whole.labels
        self._indices = spread(len(whole), images)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self._indices[index]]

    def image_size(self, index: int) -> tuple[int, int]:
        return self.whole.image_size(self._indices[index])

    def fingerprint(self) -> str:
        """That of the whole split, with what is taken of it."""
        return f"{len(self)} of {self.whole.fingerprint()}"
