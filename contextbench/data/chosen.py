"""Pictures as a command line names them: files, folders, patterns."""

import glob
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from contextbench.config.files import ConfigError
from contextbench.data.base import Picture
from contextbench.data.pictures import read_image
from contextbench.system.reading import exists, given

# What a folder is searched for. A file that is named may end in anything.
ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".webp", ".gif")


def chosen_pictures(
    named: Sequence[str | Path], leave_out: Callable[[Path], bool] = lambda _path: False
) -> list[Picture]:
    """What files, folders with all below them, and patterns such as `photos/**/*.jpg` name.

    A file is called by its stem. One of a folder, or of a pattern, by its path below that, or below
    what the pattern begins with, so that two folders may hold the same names; `leave_out` says
    which of these are none. Files come as they are named, those of a folder by name; each once.
    Raises `ConfigError` for a name of nothing.
    """
    found: dict[tuple[str, Path], Picture] = {}
    for text in named:
        for name, path in _named(str(text), leave_out):
            picture = Picture(name, partial(read_image, path), path)
            found.setdefault((name, path.absolute()), picture)
    return list(found.values())


def _named(text: str, leave_out: Callable[[Path], bool]) -> Iterator[tuple[str, Path]]:
    """Names and paths of what one argument names."""
    path = Path(text)
    if exists(path, Path.is_dir):
        base, files, what = path, path.rglob("*"), "the folder"
    elif exists(path):
        yield path.stem, path
        return
    elif glob.has_magic(text):
        base = _base(path)
        files, what = base.glob(str(path.relative_to(base))), "the pattern"
    else:
        raise ConfigError(f"there is no file, folder or pattern {given(text)}")
    pictures = [file for file in sorted(files) if _is_picture(file) and not leave_out(file)]
    if not pictures:
        raise ConfigError(
            f"{what} {given(text)} has no images: no files that end in {', '.join(ENDINGS)}"
        )
    for file in pictures:
        yield file.relative_to(base).with_suffix("").as_posix(), file


def _base(pattern: Path) -> Path:
    """The folder that all matches of a pattern lie in."""
    fixed = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and path.is_file()
