"""Datasets of image files with one mask each: what all official layouts share.

A dataset says where its files are (`find`), what its classes are (`facts`) and what the values of
its masks mean (`table`). Matching by name, checking partners and counts, reading and the
fingerprint are here.
"""

import hashlib
import json
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contextbench.data.base import DataError, Facts, Picture, Sample
from contextbench.data.labels import (
    MaskTable,
    picture_size,
    read_image,
    read_indices,
    read_pair,
)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MASK_SUFFIXES = (".png",)

# Every command opens the dataset, and opening so many files takes minutes on a network drive. Of
# the official splits, the training sets of COCO-Stuff 164k and LIP are larger.
HASHED_MASKS = 25_000


class MissingFiles(DataError):
    """A folder or list file that a split needs does not exist."""


class IncompleteSplit(DataError):
    """Images or masks without partner. `complete` is the split without them, for a check."""

    def __init__(self, message: str, complete: "PairedDataset", missing: Sequence[str]) -> None:
        super().__init__(message)
        self.complete, self.missing = complete, missing


class Pair(NamedTuple):
    """Files of one image. `name` is unique in the split: a path without suffix.

    A mask that is one of many in a file is addressed as FILE/KEY.
    """

    name: str
    image: Path
    mask: Path

    @property
    def mask_file(self) -> Path:
        return self.mask if self.mask.is_file() else self.mask.parent


class Matches(NamedTuple):
    """Pairs in the order of their names, and names that lack one of the two files."""

    pairs: list[Pair]
    without_image: list[str]
    without_mask: list[str]


def match(
    images: Mapping[str, Path], masks: Mapping[str, Path], listed: Iterable[str] | None = None
) -> Matches:
    """Pair files by name. With `listed` exactly these names count, else whatever there is."""
    names = set(images) | set(masks) if listed is None else set(listed)
    complete = sorted(names & images.keys() & masks.keys())
    return Matches(
        [Pair(name, images[name], masks[name]) for name in complete],
        without_image=sorted(names - images.keys()),
        without_mask=sorted(names - masks.keys()),
    )


def by_stem(files: Mapping[str, Path]) -> dict[str, Path]:
    """Files by the last part of their names alone, whatever folders they are in."""
    stems: dict[str, Path] = {}
    for name, path in files.items():
        stem = PurePosixPath(name).name
        if stem in stems:
            raise DataError(f"{path} and {stems[stem]} have the same stem")
        stems[stem] = path
    return stems


class PairedSource(ABC):
    """A dataset below the folder `root`, which need not exist before `open`."""

    facts: Facts
    table: MaskTable
    layout: ClassVar[str]  # what `root` should hold, in a few words

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def find(self, split: str) -> Matches:
        """The files of one of `facts.splits`. Raises `DataError`."""

    def find_unlabelled(self, _split: str) -> dict[str, Path]:
        """The images of one of `facts.unlabelled`, by name; most datasets have no such split."""
        return {}

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        """(H, W) raw values, or (H, W, 3) colours where `table` is one of colours."""
        return read_indices(path)

    def open(self, split: str) -> "PairedDataset":
        """One split, in the order of the names. Warns when the official count differs.

        Raises `DataError` for an unknown split, `MissingFiles` and `IncompleteSplit`.
        """
        self._check_name(split)
        found = self.find(split)
        dataset = PairedDataset(self, split, found.pairs)
        if found.without_image or found.without_mask:
            raise IncompleteSplit(
                f"{self.facts.name} {split} in {self.root}: "
                f"{_examples('masks without image', found.without_image)}; "
                f"{_examples('images without mask', found.without_mask)}",
                dataset,
                _missing(found),
            )
        if not found.pairs:
            raise DataError(f"{self.facts.name} {split}: no images in {self.root}")
        self._check_count(split, len(dataset), self.facts.splits[split])
        return dataset

    def images(self, split: str) -> list[Picture]:
        """Images of a split in the order of their names; where it has labels, what `open` finds.

        Raises `DataError` as `open` does, and warns likewise.
        """
        unlabelled = self.facts.unlabelled
        if split in unlabelled:
            files = self.find_unlabelled(split)
            if not files:
                raise DataError(f"{self.facts.name} {split}: no images in {self.root}")
            self._check_count(split, len(files), unlabelled[split])
        elif split in self.facts.splits:
            files = {pair.name: pair.image for pair in self.open(split).pairs}
        else:
            raise self._unknown(split, (*self.facts.splits, *unlabelled))
        return [Picture(name, partial(read_image, path)) for name, path in sorted(files.items())]

    def _check_name(self, split: str) -> None:
        if split in self.facts.unlabelled:
            raise DataError(
                f"{self.facts.name}: split {split!r} has no labels here; its images can be "
                f"predicted: contextbench predict RUN --split {split} --submission"
            )
        if split not in self.facts.splits:
            raise self._unknown(split, self.facts.splits)

    def _unknown(self, split: str, allowed: Iterable[str]) -> DataError:
        choice = ", ".join(allowed)
        return DataError(f"{self.facts.name}: unknown split {split!r}; allowed are {choice}")

    def _check_count(self, split: str, count: int, official: int | None) -> None:
        if official is not None and count != official:
            warnings.warn(
                f"{self.facts.name} {split}: {count} images in {self.root}, "
                f"the official split has {official}",
                stacklevel=3,
            )

    def first_folder(self, candidates: Sequence[str], holding: str) -> str:
        """The first of `candidates` below `root` with a folder `holding`; the first if none has."""
        found = (name for name in candidates if (self.root / name / holding).is_dir())
        return next(found, candidates[0])

    def files(
        self, folder: str, suffixes: Sequence[str], *, without: str | None = None
    ) -> dict[str, Path]:
        """Files below `root/folder`, by path from there without suffix, case of suffixes ignored.

        Files that end in `without` are left out, and so are hidden ones.
        """
        top = self.root / folder
        if not top.is_dir():
            raise self.missing(f"folder {top}")
        files: dict[str, Path] = {}
        for parent, folders, names in os.walk(top, followlinks=True):
            folders.sort()
            inside = Path(parent).relative_to(top).as_posix()
            prefix = "" if inside == "." else f"{inside}/"
            for name in sorted(names):
                suffix = next((s for s in suffixes if name.lower().endswith(s.lower())), None)
                if suffix is None or name.startswith(".") or (without and name.endswith(without)):
                    continue
                key, path = prefix + name[: -len(suffix)], Path(parent, name)
                if key in files:
                    raise DataError(
                        f"{self.facts.name}: {path} and {files[key].name} have the same stem"
                    )
                files[key] = path
        return files

    def listed(self, list_file: str) -> set[str]:
        """Stems of the first path in each line: lists with absolute paths of others are common."""
        path = self.root / list_file
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise self.missing(f"list {path}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as a list of names ({error})") from error
        return {_stem(line.split()[0]) for line in lines if line.strip()}

    def missing(self, what: str) -> MissingFiles:
        """The error for something that is not there, with the layout and what to do."""
        return MissingFiles(
            f"{self.facts.name}: {what} does not exist; expected {self.root} to hold "
            f"{self.layout}. Pass --data-root FOLDER, where FOLDER or "
            f"FOLDER/{self.root.name} holds them, or set CONTEXTBENCH_DATA"
        )


class PairedDataset:
    """One split of a `PairedSource`."""

    def __init__(self, source: PairedSource, split: str, pairs: Sequence[Pair]) -> None:
        self.source, self.split, self.pairs = source, split, pairs
        self.labels = source.facts.labels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        return read_pair(*self.pairs[index], self.source.table, self.source.read_mask)

    def image_size(self, index: int) -> tuple[int, int]:
        """(H, W) of an image, from the header of its file. Raises `DataError`."""
        return picture_size(self.pairs[index].image)

    def fingerprint(self) -> str:
        """Hex digest over the file names of the split, its masks, mapping table and classes.

        Masks enter by their bytes, or by their sizes where there are more than `HASHED_MASKS`:
        an edited mask keeps the size of its compressed file only by chance.
        """
        sizes = len(self.pairs) > HASHED_MASKS
        digest = hashlib.sha256(json.dumps(self._facts(sizes)).encode())
        digest.update(self.source.table.fingerprint_bytes())
        for path in dict.fromkeys(pair.mask_file for pair in self.pairs):
            if sizes:
                digest.update(path.stat().st_size.to_bytes(8, "little"))
            else:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def _facts(self, sizes: bool) -> dict[str, object]:
        names = []
        for pair in self.pairs:
            folder = pair.name[: pair.name.rfind("/") + 1]
            names.append((folder + pair.image.name, folder + pair.mask.name))
        facts: dict[str, object] = {
            "split": self.split,
            "pairs": names,
            "classes": self.labels.classes,
        }
        if self.labels.swap:
            facts["swap"] = self.labels.swap
        if sizes:
            facts["masks"] = "sizes"
        return facts


def _stem(listed: str) -> str:
    """The name of a listed file without folders and, if it has one, its suffix."""
    path = PurePosixPath(listed)
    known = (*IMAGE_SUFFIXES, ".mat")
    return path.stem if path.suffix.lower() in known else path.name


def _missing(found: Matches) -> list[str]:
    return [
        *(f"{name}: has no image" for name in found.without_image),
        *(f"{name}: has no mask" for name in found.without_mask),
    ]


def _examples(what: str, names: Sequence[str], shown: int = 5) -> str:
    tail = ", ..." if len(names) > shown else ""
    return f"{len(names)} {what}" + (f" ({', '.join(names[:shown])}{tail})" if names else "")
