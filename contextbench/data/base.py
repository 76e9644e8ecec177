"""What the trainer and the evaluator may ask of a dataset.

Axes: (H, W) image pixels, height first; K classes. Masks hold train ids 0 .. K-1 and `IGNORE`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

from contextbench.config.sampling import INDEPENDENT, Sampling
from contextbench.data.submission import Submission
from contextbench.system.errors import UserError

IGNORE = 255


class DataError(UserError, ValueError):
    """A fault in the data on disk. The message names the file and what was expected."""


class Picture(NamedTuple):
    """One image without labels, read when it is wanted."""

    name: str
    read: Callable[[], Tensor]  # (3, H, W) uint8; raises `DataError`
    path: Path | None = None  # of its file, if it has one

    @property
    def place(self) -> str:
        """What messages call it."""
        return self.name if self.path is None else str(self.path)


class Sample(NamedTuple):
    """One image with its label map, not normalised, not augmented."""

    name: str
    image: Tensor  # (3, H, W) uint8
    labels: Tensor  # (H, W) uint8, train ids or IGNORE


@dataclass(frozen=True)
class LabelSet:
    """Classes in train-id order, with how they are drawn and grouped in reports.

    `swap` lists pairs of train ids that a horizontal flip exchanges, because they name a side of
    what is shown ("left arm"). `sampling` says which images belong together, for statistics.
    Raises `DataError` for ids to swap that do not exist or are in two pairs.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]  # one RGB colour per class
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # group -> train ids
    swap: tuple[tuple[int, int], ...] = ()
    sampling: Sampling = INDEPENDENT

    def __post_init__(self) -> None:
        ids = [train_id for pair in self.swap for train_id in pair]
        if len(set(ids)) < len(ids) or not set(ids) <= set(range(len(self.classes))):
            raise DataError(
                f"swap {list(self.swap)} must be pairs of different train ids in "
                f"0 .. {len(self.classes) - 1}, none of them twice"
            )

    @property
    def mirrored(self) -> tuple[int, ...]:
        """Train id that each class has in the mirror image: 0 .. K-1 with `swap` applied.

        Logits (N, K, h, w) of a mirrored image are those of the image after
        `logits.flip(-1)[:, list(mirrored)]`.
        """
        partner = {**dict(self.swap), **{right: left for left, right in self.swap}}
        return tuple(partner.get(train_id, train_id) for train_id in range(len(self.classes)))


@dataclass(frozen=True)
class Facts:
    """What is known about a dataset before any file of it is opened."""

    name: str  # as messages call it, with the options that make it another dataset
    labels: LabelSet
    splits: Mapping[str, int | None]  # with labels -> official number of images, None where none is
    # Splits whose labels only the benchmark's server has, with their numbers of images likewise.
    unlabelled: Mapping[str, int | None] = field(default_factory=dict)
    contains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # union -> its splits
    size: tuple[int, int] | None = None  # (H, W), where every image has the same
    global_names: bool = True  # whether an image's name tells it from those of all splits
    submission: Submission | None = None  # None where no server or toolkit takes predictions


class SegmentationDataset(Protocol):
    """A split of a dataset: indexable, picklable (it is sent to loader workers), deterministic.

    It is read in threads and processes other than the one that opened it, by several at once.
    """

    labels: LabelSet

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def image_size(self, index: int) -> tuple[int, int]:
        """(H, W) of `self[index].image`, without decoding it. Raises `DataError`."""
        ...

    def fingerprint(self) -> str:
        """A text that differs where images, labels, their names or their meaning do."""
        ...


class Source(Protocol):
    """A dataset with all its splits; its folder need not exist before `open`."""

    @property
    def facts(self) -> Facts: ...

    def open(self, split: str) -> SegmentationDataset:
        """One split. Raises `DataError` for what is wrong with it."""
        ...

    def images(self, split: str) -> list[Picture]:
        """What there is to predict, also of a split without labels. Raises `DataError`."""
        ...
