"""Datasets of image files with one mask each: what all official layouts share.

A dataset says where its files are (`find`), what its classes are (`facts`) and what the values of
its masks mean (`table`). Matching by name, checking partners and counts, reading and the
fingerprint are here.
"""

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from contextbench.config.fingerprints import digest, joined
from contextbench.config.sampling import SamplingError
from contextbench.data.base import DataError, Facts, Picture, Sample
from contextbench.data.digests import file_digests, verify_digests
from contextbench.data.folders import find_files, read_list
from contextbench.data.labels import MaskTable, read_pair
from contextbench.data.pictures import picture_size, read_image, read_indices

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MASK_SUFFIXES = (".png",)


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


def unpacked(archive: str) -> tuple[str, ...]:
    """Where the content of an archive lies: at the top, or in its folder, often doubled."""
    return ".", archive, f"{archive}/{archive}"


class PairedSource(ABC):
    """A dataset below the folder `root`, which need not exist before `open`."""

    facts: Facts
    table: MaskTable
    layout: ClassVar[str]  # what `root` should hold, in a few words
    others: ClassVar[Sequence[str]] = ()  # endings of pictures that lie there and are not read
    # Whether EXIF orientations are applied. Masks of the official datasets were drawn on pixels as
    # they are stored, and the same pixels are what other code bases train on.
    upright: bool = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self._notes: list[str] = []  # on the files found since a split was asked for

    @abstractmethod
    def find(self, split: str) -> Matches:
        """The files of one of `facts.splits`. Raises `DataError`."""

    def find_unlabelled(self, _split: str) -> dict[str, Path]:
        """The images of one of `facts.unlabelled`, by name; most datasets have no such split."""
        return {}

    def read_image(self, path: Path) -> Tensor:
        """(3, H, W) uint8 RGB."""
        return read_image(path, upright=self.upright)

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        """(H, W) raw values, or (H, W, 3) colours where `table` is one of colours."""
        return read_indices(path, upright=self.upright)

    def open(self, split: str) -> "PairedDataset":
        """One split, in the order of the names. Warns when the official count differs.

        Raises `DataError` for an unknown split, `MissingFiles` and `IncompleteSplit`.
        """
        self._check_name(split)
        self._notes = []
        found = self.find(split)
        dataset = PairedDataset(self, split, found.pairs, self._notes)
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
        try:
            dataset.labels.sampling.clusters([pair.name for pair in found.pairs])
        except SamplingError as error:
            raise DataError(f"{self.facts.name} {split} in {self.root}: {error}") from None
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
        return [
            Picture(name, partial(self.read_image, path), path)
            for name, path in sorted(files.items())
        ]

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
        self, folders: str | Sequence[str], suffixes: Sequence[str], *, without: str | None = None
    ) -> dict[str, Path]:
        """Files below the first of `folders` that exists, by path from there without suffix.

        See `find_files`. Raises `MissingFiles` with the places that were tried.
        """
        candidates = [folders] if isinstance(folders, str) else list(folders)
        places = list(dict.fromkeys(self.root / folder for folder in candidates))
        top = next((place for place in places if place.is_dir()), None)
        if top is None:
            raise self.missing("folder", places)
        try:
            found = find_files(top, suffixes, without=without, others=self.others)
        except DataError as error:
            raise DataError(f"{self.facts.name}: {error}") from None
        self._notes += found.notes
        return found.files

    def listed(self, *list_files: str) -> set[str]:
        """Names in the first of `list_files` that exists, see `read_list`. Raises `DataError`."""
        places = [self.root / name for name in list_files]
        for place in places:
            with suppress(FileNotFoundError):
                return read_list(place)
        raise self.missing("list", places)

    def missing(self, kind: str, places: Sequence[Path]) -> MissingFiles:
        """The error for what is at none of `places`, with the layout and what to do."""
        others = ", ".join(place.relative_to(self.root).as_posix() for place in places[1:])
        tried = f" (also looked for: {others})" if others else ""
        return MissingFiles(
            f"{self.facts.name}: {kind} {places[0]} does not exist; expected {self.root} to hold "
            f"{self.layout}{tried}. Pass --data-root FOLDER, where FOLDER or "
            f"FOLDER/{self.root.name} holds them, or set CONTEXTBENCH_DATA"
        )


class PairedDataset:
    """One split of a `PairedSource`. `notes`: what was met on the way to its files."""

    def __init__(
        self, source: PairedSource, split: str, pairs: Sequence[Pair], notes: Sequence[str] = ()
    ) -> None:
        self.source, self.split, self.pairs, self.notes = source, split, pairs, list(notes)
        self.labels = source.facts.labels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        source = self.source
        return read_pair(
            *self.pairs[index],
            source.table,
            image_reader=source.read_image,
            mask_reader=source.read_mask,
        )

    def image_size(self, index: int) -> tuple[int, int]:
        """(H, W) of an image, from the header of its file. Raises `DataError`."""
        return picture_size(self.pairs[index].image, upright=self.source.upright)

    def fingerprint(self) -> str:
        """Digests of names, images, masks, meaning of labels and sampling: see `fingerprints`.

        Image and mask files enter by their bytes, which are read once: see `digests`.
        """
        images, masks = self._files()
        digests = file_digests(self.source.root, [*images, *masks])
        return joined(
            {
                "names": digest([json.dumps([self.split, self._names()]).encode()]),
                "images": digest(digests[path] for path in images),
                "masks": digest(digests[path] for path in masks),
                "labels": digest([self._meaning(), self.source.table.fingerprint_bytes()]),
                "sampling": digest([self.labels.sampling.model_dump_json().encode()]),
            }
        )

    def verify(self) -> list[Path]:
        """Read every file again; those whose content changed behind their size and times."""
        images, masks = self._files()
        return verify_digests(self.source.root, [*images, *masks])

    def _files(self) -> tuple[list[Path], list[Path]]:
        """Of images and of masks, each once; a file may hold all masks."""
        masks = dict.fromkeys(pair.mask_file for pair in self.pairs)
        return [pair.image for pair in self.pairs], list(masks)

    def _names(self) -> list[tuple[str, str]]:
        names = []
        for pair in self.pairs:
            folder = pair.name[: pair.name.rfind("/") + 1]
            names.append((folder + pair.image.name, folder + pair.mask.name))
        return names

    def _meaning(self) -> bytes:
        """Of the labels, and how pixels are read."""
        facts = {"classes": self.labels.classes, "swap": self.labels.swap}
        return json.dumps({**facts, "upright": self.source.upright}).encode()


def _missing(found: Matches) -> list[str]:
    return [
        *(f"{name}: has no image" for name in found.without_image),
        *(f"{name}: has no mask" for name in found.without_mask),
    ]


def _examples(what: str, names: Sequence[str], shown: int = 5) -> str:
    tail = ", ..." if len(names) > shown else ""
    return f"{len(names)} {what}" + (f" ({', '.join(names[:shown])}{tail})" if names else "")
