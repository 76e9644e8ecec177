"""Writing that never leaves a half-written file, and setting aside files that cannot be read."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from contextbench.errors import UserError


class OutputError(UserError, OSError):
    """The output folder cannot be written: the message names the path and the cause."""


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write through a temporary file in the same folder, then rename: readers see old or new.

    Raises `OutputError` when the folder is not writable or the disk is full; the old file stays.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # torch.save meets the failed write, then raises a RuntimeError of its own over it.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OutputError(f"cannot write {path}: {cause.strerror or cause}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, refusing NaN: a missing number is null, never a special token."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def ensure_writable(folder: Path) -> None:
    """Fail before hours of work rather than after. Raises `OutputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"cannot write to the output folder {folder}: {error.strerror or error}"
        raise OutputError(message) from error


def quarantine(path: Path) -> Path:
    """Rename an unreadable file to the first free `NAME.corrupt-N` beside it; return that path."""
    number = 1
    while (target := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    return path.rename(target)
