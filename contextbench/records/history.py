"""The losses of a training, a JSON line a step."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from contextbench.records.stored import RecordError
from contextbench.system.files import write_text
from contextbench.system.reading import exists, read_bytes, why

LARGEST_HISTORY = 2**30  # bytes
LARGEST_NUMBER = 1e300  # in a history: such that means of them are numbers


def write_history(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON line for each entry (`step`, `lr`, `loss`, one number per loss term)."""
    lines = [json.dumps(dict(entry), allow_nan=False) + "\n" for entry in entries]
    write_text(path, "".join(lines))


def read_history(path: Path) -> list[dict[str, Any]]:
    """Entries of a `history.jsonl`; a last line cut off by a crash is left out. Missing file: [].

    Raises `RecordError` for any other line that is no entry.
    """
    if not exists(path):
        return []
    try:
        lines = read_bytes(path, LARGEST_HISTORY).split(b"\n")
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read: {why(error)}") from error
    entries = [_entry(line) for line in lines]
    if not lines[-1] or entries[-1] is None:
        entries.pop()
    if None in entries:
        raise RecordError(f"{path}: line {entries.index(None) + 1} is no entry of a history")
    return [entry for entry in entries if entry is not None]


def _entry(line: bytes) -> dict[str, Any] | None:
    """A step with its numbers; None for a line that is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and _is_entry(entry) else None


def _is_entry(entry: Mapping[str, Any]) -> bool:
    numbers = all(
        type(value) in (int, float) and -LARGEST_NUMBER < value < LARGEST_NUMBER
        for value in entry.values()
    )
    return numbers and type(entry.get("step")) is int and "loss" in entry
