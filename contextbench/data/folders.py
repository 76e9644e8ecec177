"""What lies in the folders of a dataset: files by name, lists of names, and what is left over."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from contextbench.data.base import DataError

PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".mat"),
)
_KNOWN = "|".join(suffix[1:] for suffix in PICTURE_SUFFIXES)
_TWO_PATHS = re.compile(rf"(.+?\.(?:{_KNOWN}))\s+\S.*\.(?:{_KNOWN})", re.IGNORECASE)


class Found(NamedTuple):
    """Files below a folder, by path from there without suffix, and what is to be known of it."""

    files: dict[str, Path]
    notes: list[str]


def find_files(
    top: Path, suffixes: Sequence[str], *, without: str | None = None, others: Sequence[str] = ()
) -> Found:
    """Files that end in one of `suffixes`, upper or lower case; hidden ones are no files.

    Those that end in `without` are left out. Pictures with other endings are noted, unless these
    are in `others`. Raises `DataError` for two files of one name.
    """
    files: dict[str, Path] = {}
    unread: Counter[str] = Counter()
    notes: list[str] = []
    for folder, names in _walk(top, notes):
        inside = folder.relative_to(top).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        for name in names:
            suffix = next((s for s in suffixes if name.lower().endswith(s.lower())), None)
            if name.startswith("."):
                continue
            if suffix is None or (without and name.endswith(without)):
                unread[_left_over(name, (*others, without or ""))] += 1
                continue
            key, path = prefix + name[: -len(suffix)], folder / name
            if key in files:
                raise DataError(f"{path} and {files[key].name} have the same stem")
            files[key] = path
    left = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unread.items()) if suffix)
    if left:
        expected = " or ".join(suffixes)
        notes.append(f"{top}: {left} not read, as only {expected} is")
    return Found(files, notes)


def _left_over(name: str, others: Sequence[str]) -> str:
    """The suffix of a picture that nobody asked for; empty for what needs no mention."""
    suffix = PurePosixPath(name).suffix.lower()
    expected = any(other and name.endswith(other) for other in others)
    return "" if expected or suffix not in PICTURE_SUFFIXES else suffix


def _walk(top: Path, notes: list[str]) -> Iterator[tuple[Path, list[str]]]:
    """Folders with the names of their files, links followed, each real folder once."""
    seen = {os.path.realpath(top): top}
    for parent, folders, names in os.walk(top, followlinks=True):
        kept = []
        # A folder itself goes before links to it.
        for name in sorted(folders, key=lambda each: (Path(parent, each).is_symlink(), each)):
            path = Path(parent, name)
            first = seen.setdefault(os.path.realpath(path), path)
            if first is path:
                kept.append(name)
            else:
                notes.append(f"{path} is a link to {first}, which is read once")
        folders[:] = kept
        yield Path(parent), sorted(names)


def read_list(path: Path) -> set[str]:
    """Names in a text file, one a line, without folders and suffix of a picture.

    Blanks belong to a name. Of a line of two paths, to image and mask, the first counts. Lists
    with absolute paths of other machines are common. Raises FileNotFoundError, `DataError`.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of names ({error})") from error
    return {_name(line.strip()) for line in lines if line.strip()}


def _name(line: str) -> str:
    two = _TWO_PATHS.fullmatch(line)
    path = PurePosixPath(two[1] if two else line)
    return path.stem if path.suffix.lower() in PICTURE_SUFFIXES else path.name
