"""Digests of the bytes of many files, computed once.

A file that was hashed is not read again while its size, its times and its inode are what they were.
The time of the last change of a file's inode cannot be set by programs, unlike that of its content,
so that a file that was replaced and given the old date is read again. What was changed less than
two seconds before it was hashed is not remembered: clocks of file systems are coarse, and another
change could bear the same time.

The digests lie in the cache folder of the user, one file for each root of a dataset: below
`CONTEXTBENCH_CACHE`, else `$XDG_CACHE_HOME/contextbench`, else `~/.cache/contextbench`. With
`CONTEXTBENCH_CACHE` set to nothing there is none. A cache that is damaged or cannot be written
costs time and nothing else.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from contextbench.data.base import DataError
from contextbench.system.console import Reporter, Update
from contextbench.system.files import OutputError, write_text

CACHE_VARIABLE = "CONTEXTBENCH_CACHE"
SETTLED_NS = 2 * 10**9  # the coarsest clock of a file system in use, that of FAT
SHOWN_BYTES = 2**29  # with less to read there is nothing worth telling
_FORM = 1  # of the cache file
_LABEL = "reading files that are new or have changed"

Stamp = tuple[int, int, int, int]  # size, times of change of content and of inode in ns, inode


class Remembered(NamedTuple):
    """The digest of a file as it was at a stamp."""

    stamp: Stamp
    digest: str


def file_digests(
    root: Path, paths: Sequence[Path], reporter: Reporter | None = None
) -> dict[Path, bytes]:
    """SHA-256 of the content of each file. Raises `DataError` for one that cannot be read."""
    cache = DigestCache(root)
    stamps = {path: _stamp(path) for path in dict.fromkeys(paths)}
    known = {path: cache.get(path, stamp) for path, stamp in stamps.items()}
    lacking = [path for path, digest in known.items() if digest is None]
    fresh = _hashed(lacking, stamps, cache, reporter)
    return {path: bytes.fromhex(known[path] or fresh[path]) for path in stamps}


def verify_digests(
    root: Path, paths: Sequence[Path], reporter: Reporter | None = None
) -> list[Path]:
    """Read every file again, and return those that are not what is remembered of them."""
    cache = DigestCache(root)
    stamps = {path: _stamp(path) for path in dict.fromkeys(paths)}
    before = {path: cache.get(path, stamp) for path, stamp in stamps.items()}
    now = _hashed(list(stamps), stamps, cache, reporter)
    return [path for path, digest in before.items() if digest not in (None, now[path])]


class DigestCache:
    """The file of remembered digests for one root."""

    def __init__(self, root: Path) -> None:
        self._prefix, self._root = f"{root}{os.sep}", root.resolve()
        folder = cache_folder()
        name = hashlib.sha256(os.fsencode(self._root)).hexdigest()[:32]
        self.path = None if folder is None else folder / "digests" / f"{name}.json"
        self._entries = self._read()

    def get(self, path: Path, stamp: Stamp) -> str | None:
        """The digest of a file that is as it was; None for others."""
        entry = self._entries.get(self._key(path))
        return entry.digest if entry is not None and entry.stamp == stamp else None

    def add(self, new: Mapping[Path, Remembered]) -> None:
        """Remember digests, beside those that another process has remembered meanwhile."""
        if self.path is None or not new:
            return
        self._entries = {**self._read(), **{self._key(path): each for path, each in new.items()}}
        files = {key: [*entry.stamp, entry.digest] for key, entry in self._entries.items()}
        content = {"form": _FORM, "root": str(self._root), "files": files}
        try:
            write_text(self.path, json.dumps(content))
        except (OutputError, UnicodeEncodeError):  # of names that are no text
            return

    def _key(self, path: Path) -> str:
        text = str(path)
        inside = text.startswith(self._prefix)
        return text[len(self._prefix) :] if inside else str(path.absolute())

    def _read(self) -> dict[str, Remembered]:
        if self.path is None:
            return {}
        try:
            content = json.loads(self.path.read_bytes())
            if content["form"] != _FORM or content["root"] != str(self._root):
                return {}
            return {key: _entry(*values) for key, values in content["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}


def _entry(size: int, changed: int, inode_changed: int, inode: int, digest: str) -> Remembered:
    if len(bytes.fromhex(digest)) != hashlib.sha256().digest_size:
        raise ValueError(digest)
    return Remembered((size, changed, inode_changed, inode), digest)


def cache_folder() -> Path | None:
    """Where digests are remembered; None where they are not."""
    own = os.environ.get(CACHE_VARIABLE)
    if own is not None:
        return Path(own).expanduser() if own else None
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(shared) if shared else Path.home() / ".cache") / "contextbench"
    except RuntimeError:  # there is no home
        return None


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _hashed(
    paths: Sequence[Path],
    stamps: Mapping[Path, Stamp],
    cache: DigestCache,
    reporter: Reporter | None,
) -> dict[Path, str]:
    """Digests of files that are read now. Threads, since hashing and reading release the lock."""
    began = time.time_ns()
    digests: dict[Path, str] = {}
    try:
        for path, digest in _read_all(paths, sum(stamps[path][0] for path in paths), reporter):
            digests[path] = digest
    finally:  # what an interruption leaves is remembered too
        cache.add(
            {
                path: Remembered(stamps[path], digest)
                for path, digest in digests.items()
                if max(stamps[path][1:3]) < began - SETTLED_NS and stamps[path] == _stamp(path)
            }
        )
    return digests


def _read_all(
    paths: Sequence[Path], size: int, reporter: Reporter | None
) -> Iterator[tuple[Path, str]]:
    """Each file with its digest; a bar where `size`, the bytes of all, is large."""
    with ExitStack() as stack:
        pool = ThreadPoolExecutor()
        stack.callback(pool.shutdown, cancel_futures=True)
        update: Update = lambda _done, _note: None  # noqa: E731
        if size >= SHOWN_BYTES:
            update = stack.enter_context((reporter or Reporter()).task(_LABEL, len(paths)))
        for done, (path, digest) in enumerate(zip(paths, pool.map(_sha256, paths), strict=True)):
            yield path, digest
            update(done + 1, "")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
