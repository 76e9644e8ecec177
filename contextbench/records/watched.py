"""The curve of a watched training, `watch.jsonl`: a line for each step that was scored."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from pydantic import model_validator

from contextbench.records.classes import ClassTotals
from contextbench.records.failures import Failure
from contextbench.records.stored import Count, Positive, RecordError, Seconds, Stored
from contextbench.system.files import write_text
from contextbench.system.reading import exists, parse_json, read_bytes, why

WATCHED = "watch.jsonl"


class Watched(Stored):
    """What the weights after one step made of a fixed part of a split, or why that is not known."""

    step: Count
    split: str
    images: Positive
    seconds: Seconds  # that it took, beside those of training
    totals: ClassTotals | None = None
    failure: Failure | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.totals is None) == (self.failure is None):
            raise ValueError("a watched step has either totals or a failure")
        return self


def write_watched(path: Path, entries: Iterable[Watched]) -> None:
    """Write one JSON line for each entry, whole or not at all."""
    write_text(path, "".join(entry.model_dump_json() + "\n" for entry in entries))


def read_watched(path: Path, classes: int) -> list[Watched]:
    """Entries of the `watch.jsonl` of a run that has so many classes. Missing file: [].

    Raises `RecordError` for a line that is no entry, for steps that do not rise, and for other
    numbers of classes.
    """
    if not exists(path):
        return []
    try:
        lines = read_bytes(path).splitlines()
        entries = [Watched.model_validate(parse_json(line)) for line in lines]
        _check(entries, classes)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read: {why(error)}") from error
    return entries


def _check(entries: Sequence[Watched], classes: int) -> None:
    steps = [entry.step for entry in entries]
    if steps != sorted(set(steps)):
        raise ValueError("its steps do not rise from line to line")
    counted = [len(entry.totals.labelled) for entry in entries if entry.totals is not None]
    if any(count != classes for count in counted):
        raise ValueError(f"its counts are not of the {classes} classes of the run")
