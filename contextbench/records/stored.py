"""What records are made of: closed models, numbers within limits, and the reading of files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from contextbench.system.errors import UserError
from contextbench.system.files import write_text
from contextbench.system.reading import check_plain, given, read_json, why

SCHEMA_VERSION = 1
"""Of all records but those of runs, which have their own."""
R = TypeVar("R", bound=BaseModel)
V = TypeVar("V")
Convert = Callable[[Mapping[str, Any]], dict[str, Any]]
IntArray = npt.NDArray[np.int64]


class RecordError(UserError, ValueError):
    """A record that cannot be used. The message names the file and the reason."""


class Stored(BaseModel):
    """Immutable and closed; its validators are all that is checked of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def plain(content: dict[str, V]) -> dict[str, V]:
    check_plain(content)
    return content


MOST_PIXELS = 2**62  # such that the sum of two counts fits into 64 bits
Count = Annotated[int, Field(ge=0, le=MOST_PIXELS)]
Positive = Annotated[int, Field(ge=1, le=MOST_PIXELS)]
Side = Annotated[int, Field(ge=1, le=2**31)]  # the product of two is a count
Seconds = Annotated[float, Field(ge=0, le=1e10)]
Milliseconds = Annotated[float, Field(gt=0, le=1e10)]  # ratios divide by them
Shade = Annotated[int, Field(ge=0, le=255)]
TrainId = Annotated[int, Field(ge=0, lt=2**16)]
Free = Annotated[dict[str, Any], AfterValidator(plain)]  # what no reader relies on


class Part(Stored):
    """What readers rely on of what is recorded as it was resolved; the rest may be anything."""

    model_config = ConfigDict(extra="allow")


def fitting(part: type[BaseModel], content: dict[str, V]) -> dict[str, V]:
    """`content`. Raises ValueError unless readers find in it what they take from it."""
    try:
        part.model_validate(plain(content))
    except ValidationError as error:
        raise ValueError(why(error)) from None
    return content


def write_model(path: Path, record: BaseModel) -> None:
    """Write a record atomically."""
    write_text(path, record.model_dump_json(indent=1) + "\n")


def read_record(model: type[R], path: Path, older: Mapping[int, Convert] = {}) -> R:
    """A record of the model's schema version, or of one that `older` converts.

    Raises `RecordError` naming what is wrong with the file.
    """
    content = content_of(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    current = model.model_fields["schema_version"].default
    if type(version) is int and version in older:
        content = older[version](content)
    elif type(version) is not int or version != current:
        known = " and ".join(str(each) for each in (*older, current))
        raise RecordError(f"{path}: schema version {given(version)}, this release reads {known}")
    return valid(model, content, path)


def content_of(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read: {why(error)}") from error


def valid(model: type[R], content: Any, path: Path) -> R:
    try:
        return model.model_validate(content)
    except ValueError as error:
        raise RecordError(f"{path}: not a valid record: {why(error)}") from error
