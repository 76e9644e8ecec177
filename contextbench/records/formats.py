"""Number formats and memory layouts, and the file that says which one a comparison has."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict

from contextbench.records.stored import Part, Stored, content_of, fitting, valid

Dtype = Literal["float32", "tf32", "bfloat16"]
Layout = Literal["contiguous", "channels_last"]


class NumberFormat(Stored):
    """The number format and memory layout that a model runs in."""

    dtype: Dtype
    memory_format: Layout


class StoredPrecision(Stored):
    """A `precision.json`: what was chosen for all heads of a comparison, and on which device."""

    model_config = ConfigDict(extra="ignore")  # what the choice rests on is for people

    device: str
    chosen: NumberFormat


def read_precision(path: Path) -> StoredPrecision:
    """Read a `precision.json`. Raises `RecordError` for one that cannot be used."""
    return valid(StoredPrecision, content_of(path), path)


class _Format(Part):
    dtype: Dtype | None = None
    memory_format: Layout | None = None


def _known_format(precision: dict[str, str]) -> dict[str, str]:
    return fitting(_Format, precision)


Format = Annotated[dict[str, str], AfterValidator(_known_format)]
