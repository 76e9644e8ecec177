"""Files that are whole or not there: written at once, sealed with a digest, set aside when damaged.

What a killed process leaves is a temporary file named `.NAME.PLACE-PROCESS.RANDOM`: `PLACE` stands
for the machine, so that the next process there can tell whether the writer is still alive.
"""

import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from contextbench.system.errors import UserError
from contextbench.system.text import printable

CHUNK_BYTES = 2**20
SEAL = b"\nsha256:"  # then the digest of all bytes before, in hex, at the end of a sealed file
SEAL_BYTES = len(SEAL) + 64
STALE_SECONDS = 24 * 3600.0  # since the last byte of a temporary file of another machine
TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)\.\w+")

log = logging.getLogger(__name__)


class OutputError(UserError, OSError):
    """The output folder cannot be written: the message names the path and the cause."""


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write through a temporary file in the same folder, then rename: readers see old or new.

    Raises `OutputError` when the folder is not writable or the disk is full; the old file stays.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(0o600, exist_ok=False)  # private until it is whole
        with temporary.open("wb") as file:
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
        with suppress(OSError):  # what could not be made cannot be removed; its error is raised
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; what in it would steer a terminal is spelled out.

    In JSON that is how these characters are written.
    """
    write_atomic(path, lambda file: file.write(printable(text).encode()))


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


def write_sealed(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """`write_atomic` with the digest of the content behind it, which `is_sealed` checks."""

    def write_all(file: BinaryIO) -> None:
        hashed = _Hashed(file)
        write(cast(IO[bytes], hashed))  # of which `torch.save` needs no more
        file.write(SEAL + hashed.digest.hexdigest().encode())

    write_atomic(path, write_all)


def is_sealed(path: Path) -> bool:
    """Whether a file is, to the bit, what `write_sealed` wrote. Raises `OSError`."""
    digest, left = hashlib.sha256(), path.stat().st_size - SEAL_BYTES
    if left < 0:
        return False
    with path.open("rb") as file:
        while left and (chunk := file.read(min(CHUNK_BYTES, left))):
            digest.update(chunk)
            left -= len(chunk)
        return file.read() == SEAL + digest.hexdigest().encode()


class _Hashed:
    """A file that is hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def write(self, content: bytes, /) -> int:
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def digest_of(path: Path) -> str:
    """SHA-256 of a file in hex. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_path(path: Path) -> Path:
    """Where this process fills what is to become `path`, in the same folder; named anew each time.

    It is known before anything is made there, so that a signal that comes right after finds it.
    """
    return path.parent / f".{path.name}.{_place()}-{os.getpid()}.{secrets.token_hex(4)}"


def clear_leftovers(folder: Path) -> None:
    """Remove temporary files and folders in `folder` whose process is gone, and say so.

    Those of other machines, whose processes cannot be seen, go when nothing was written to them for
    a day.
    """
    for path in folder.glob(".*"):
        match = TEMPORARY.fullmatch(path.name)
        if match is None or not _is_abandoned(path, match[1], int(match[2])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        log.warning("%s", printable(f"removed {path}, which a process left that was killed"))


def _is_abandoned(path: Path, place: str, process: int) -> bool:
    try:
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            return True
        if place == _place():
            os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # of another user, or gone meanwhile
        pass
    return False


@cache
def _place() -> str:
    """This machine, or the container whose processes this one can see: eight hex digits."""
    try:
        processes = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        processes = ""
    return hashlib.sha256(f"{platform.node()}/{processes}".encode()).hexdigest()[:8]


def quarantine(path: Path, reason: object) -> Path:
    """Rename an unreadable file to the first free `NAME.corrupt-N` beside it; return that path.

    What happened and why goes to the log, which is the console unless told otherwise.
    """
    number = 1
    while (target := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    renamed = path.rename(target)
    log.warning(
        "%s is set aside as %s: %s", path, renamed.name, printable(" ".join(str(reason).split()))
    )
    return renamed
