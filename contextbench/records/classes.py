"""Classes as a record states them, and their pixels over a split."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from contextbench.config.sampling import Sampling
from contextbench.records.stored import MOST_PIXELS, Count, Shade, Stored, TrainId


class ClassTotals(Stored):
    """Pixels per class over the whole split, ignored pixels left out. Each list has K integers."""

    intersection: list[Count]
    predicted: list[Count]
    labelled: list[Count]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _check_counts(self.intersection, self.predicted, self.labelled)
        return self


class LabelInfo(Stored):
    """What a report needs to know about the classes without opening the dataset."""

    classes: Annotated[list[str], Field(min_length=1, max_length=2**16)]
    palette: list[tuple[Shade, Shade, Shade]]
    groups: dict[str, list[TrainId]] = {}
    swap: list[tuple[TrainId, TrainId]] = []  # that a horizontal flip exchanges
    sampling: Sampling | None = None  # which images belong together; None in records of before

    @model_validator(mode="after")
    def _one_number_of_classes(self) -> Self:
        count = len(self.classes)
        if len(self.palette) != count:
            raise ValueError(f"{count} classes have {len(self.palette)} colours")
        members = [*self.groups.values(), [k for pair in self.swap for k in pair]]
        if beyond := [k for group in members for k in group if k >= count]:
            raise ValueError(f"train id {beyond[0]} in groups or swap is none of {count} classes")
        return self


def _check_counts(
    intersection: Sequence[int], predicted: Sequence[int], labelled: Sequence[int]
) -> None:
    """Raises ValueError for totals that no prediction of any labels has."""
    if not len(intersection) == len(predicted) == len(labelled):
        raise ValueError("intersection, predicted and labelled are of different numbers of classes")
    pairs = zip(intersection, predicted, labelled, strict=True)
    for k, (correct, *areas) in enumerate(pairs):
        if correct > min(areas):
            raise ValueError(f"train id {k} has more correct than predicted or labelled pixels")
    if sum(predicted) != sum(labelled) or sum(labelled) > MOST_PIXELS:
        raise ValueError(
            f"{sum(predicted)} predicted and {sum(labelled)} labelled pixels: every labelled pixel "
            f"is predicted, and there are at most {MOST_PIXELS}"
        )
