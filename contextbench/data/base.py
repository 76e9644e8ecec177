"""What the trainer and the evaluator may ask of a dataset.

Axes: (H, W) image pixels, height first; K classes. Masks hold train ids 0 .. K-1 and `IGNORE`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor

from contextbench.errors import UserError

IGNORE = 255


class DataError(UserError, ValueError):
    """A fault in the data on disk. The message names the file and what was expected."""


class Sample(NamedTuple):
    """One image with its label map, not normalised, not augmented."""

    name: str
    image: Tensor  # (3, H, W) uint8
    labels: Tensor  # (H, W) uint8, train ids or IGNORE


@dataclass(frozen=True)
class LabelSet:
    """Classes in train-id order, with how they are drawn and grouped in reports."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]  # one RGB colour per class
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # group -> train ids


class SegmentationDataset(Protocol):
    """A split of a dataset: indexable, picklable (it is sent to loader workers), deterministic."""

    labels: LabelSet

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def fingerprint(self) -> str:
        """Hex digest over split list, mask content, mapping table and class list."""
        ...
