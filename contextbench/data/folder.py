"""A dataset of your own: folders of images and masks, described by a YAML file.

    ROOT/dataset.yaml                               the description
    ROOT/images/{split}/.../{stem}{image_suffix}
    ROOT/masks/{split}/.../{stem}{mask_suffix}

Images and masks are paired by their paths below the split's folders. Keys of the description:

    classes       names in train-id order
    values        the raw value of each class in the masks, or a list of values to merge; or
    colours       the RGB colour of each class, for masks of colours
    ignored       values or colours that are not scored; default [255], unless a class has it
    image_suffix  default .jpg; mask_suffix: default .png
    splits        the folders' names
    unlabelled    names of folders below images/ that have no masks, to be predicted
    palette       RGB colours to draw the classes in; default: `colours`, else VOC's without black
    swap          pairs of class names that a horizontal flip exchanges
    orientation   applied (default): images and masks are turned as their EXIF tags say, as viewers
                  show them; stored: they are not
    frames        ordered: in order of their names, images are frames of videos
    cluster       a regular expression, searched in the names: images with one first group, or
                  without groups one match, belong together

Traps: in two-class masks of 0 and 255, `values: [0, 255]` declares the foreground. Without it 255
is ignored and the foreground vanishes: `check-data` reports the class that never occurs.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from contextbench.config.files import read_mapping, validated
from contextbench.config.frozen import Frozen
from contextbench.config.sampling import Pattern, Sampling
from contextbench.data.base import IGNORE, DataError, Facts, LabelSet
from contextbench.data.labels import (
    ColourTable,
    LabelTable,
    MaskTable,
    bit_palette,
)
from contextbench.data.paired import Matches, MissingFiles, PairedSource, match
from contextbench.data.pictures import read_colours, read_indices
from contextbench.data.submission import Submission

Byte = Annotated[int, Field(ge=0, le=255, strict=True)]
Colour = tuple[Byte, Byte, Byte]
Values = Annotated[tuple[Byte, ...], Field(min_length=1)]
Name = Annotated[str, Field(min_length=1)]


class Description(Frozen):
    """The keys of a description file, each checked by itself."""

    classes: tuple[Name, ...]
    values: tuple[Byte | Values, ...] | None = None
    colours: tuple[Colour, ...] | None = None
    ignored: tuple[Byte | Colour, ...] | None = None
    image_suffix: Name = ".jpg"
    mask_suffix: Name = ".png"
    splits: tuple[Name, ...] = Field(min_length=1)
    unlabelled: tuple[Name, ...] = ()
    palette: tuple[Colour, ...] | None = None
    swap: tuple[tuple[Name, Name], ...] = ()
    orientation: Literal["applied", "stored"] = "applied"
    frames: Literal["ordered"] | None = None
    cluster: Pattern | None = None


class FolderDataset(PairedSource):
    """Option `description`: the YAML file, from the root; default dataset.yaml."""

    layout = "images/SPLIT/ and masks/SPLIT/"

    def __init__(self, root: Path, *, description: str = "dataset.yaml") -> None:
        super().__init__(root)
        path = root / str(description)
        if not path.is_file():
            raise MissingFiles(
                f"{path} does not exist; expected {root} to hold this description of the dataset "
                f"(see docs/datasets.md) with {self.layout}. Pass --data-root FOLDER, where "
                f"FOLDER or FOLDER/{root.name} holds them, or set CONTEXTBENCH_DATA"
            )
        self._about = read_description(path)
        self.upright = self._about.orientation == "applied"
        labels = _labels(self._about, path)
        self.table = _table(self._about, path)
        self.facts = Facts(
            root.name,
            labels,
            dict.fromkeys(self._about.splits),
            unlabelled=dict.fromkeys(self._about.unlabelled),
            global_names=False,
            submission=_submission(self._about),
        )

    def find(self, split: str) -> Matches:
        images = self.files(f"images/{split}", (self._about.image_suffix,))
        masks = self.files(f"masks/{split}", (self._about.mask_suffix,))
        return match(images, masks)

    def find_unlabelled(self, split: str) -> dict[str, Path]:
        return self.files(f"images/{split}", (self._about.image_suffix,))

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        read = read_indices if self._about.colours is None else read_colours
        return read(path, upright=self.upright)


def read_description(path: Path) -> Description:
    """The content of a description file, checked.

    Raises `ConfigError` for an unreadable file and for a key's own mistakes, `DataError` for keys
    that do not fit each other; both name the file and the key.
    """
    about = validated(Description, read_mapping(path), str(path))
    _check_names(about, path)
    _check_lengths(about, path)
    return about


def _check_names(about: Description, path: Path) -> None:
    if not 2 <= len(about.classes) <= IGNORE:
        raise DataError(
            f"{path}: key 'classes' has {len(about.classes)} names: from 2 to {IGNORE} can be told "
            "apart; declare what is not of a class as one, such as background"
        )
    if about.frames is not None and about.cluster is not None:
        raise DataError(f"{path}: keys 'frames' and 'cluster' exclude each other")
    if len(set(about.classes)) < len(about.classes):
        raise DataError(f"{path}: key 'classes' has a name twice: {list(about.classes)}")
    unknown = sorted({name for pair in about.swap for name in pair} - set(about.classes))
    if unknown:
        raise DataError(
            f"{path}: key 'swap' names {unknown}; classes are {', '.join(about.classes)}"
        )
    for key in ("splits", "unlabelled"):
        names = getattr(about, key)
        if any(Path(split).name != split or split == ".." for split in names):
            raise DataError(f"{path}: key {key!r} is {list(names)}: folder names are expected")
    both = sorted(set(about.splits) & set(about.unlabelled))
    if both:
        raise DataError(f"{path}: key 'unlabelled' has {both}, which 'splits' has too")


def _check_lengths(about: Description, path: Path) -> None:
    if (about.values is None) == (about.colours is None):
        raise DataError(f"{path}: needs either 'values' or 'colours', one for each class")
    for key in ("values", "colours", "palette"):
        entries = getattr(about, key)
        if entries is not None and len(entries) != len(about.classes):
            raise DataError(
                f"{path}: key {key!r} has {len(entries)} entries for {len(about.classes)} classes"
            )


def _labels(about: Description, path: Path) -> LabelSet:
    ids = {name: train_id for train_id, name in enumerate(about.classes)}
    palette = about.palette or about.colours or bit_palette(len(ids) + 1)[1:]
    swap = tuple((ids[left], ids[right]) for left, right in about.swap)
    sampling = Sampling(frames=about.frames, cluster=about.cluster)
    try:
        return LabelSet(about.classes, palette, swap=swap, sampling=sampling)
    except DataError as error:
        raise DataError(f"{path}: key 'swap': {error}") from None


def _table(about: Description, path: Path) -> MaskTable:
    ignored_values = [entry for entry in about.ignored or () if isinstance(entry, int)]
    ignored_colours = [entry for entry in about.ignored or () if not isinstance(entry, int)]
    if about.colours is None:
        if ignored_colours:
            raise DataError(f"{path}: key 'ignored' must hold values, as the classes do")
        return _value_table(_values(about), None if about.ignored is None else ignored_values, path)
    if ignored_values:
        raise DataError(f"{path}: key 'ignored' must hold colours, as the classes do")
    return _colour_table(about.colours, ignored_colours, path)


def _value_table(
    per_class: Sequence[tuple[int, ...]], ignored: Sequence[int] | None, path: Path
) -> LabelTable:
    listed = [value for values in per_class for value in values]
    _check_once(listed, "values", path)
    if ignored is None:
        ignored = [] if IGNORE in listed else [IGNORE]
    _check_apart(listed, ignored, path)
    train_ids = {value: k for k, values in enumerate(per_class) for value in values}
    return LabelTable(train_ids, ignored=ignored)


def _colour_table(colours: Sequence[Colour], ignored: Sequence[Colour], path: Path) -> ColourTable:
    _check_once(colours, "colours", path)
    _check_apart(colours, ignored, path)
    return ColourTable({colour: k for k, colour in enumerate(colours)}, ignored=ignored)


def _check_once(entries: Sequence[object], key: str, path: Path) -> None:
    twice = [entry for entry, count in Counter(entries).items() if count > 1]
    if twice:
        raise DataError(f"{path}: key {key!r} has {twice} more than once")


def _check_apart(classes: Sequence[object], ignored: Sequence[object], path: Path) -> None:
    both = [entry for entry in ignored if entry in classes]
    if both:
        raise DataError(f"{path}: key 'ignored' has {both}, which a class has too")


def _values(about: Description) -> list[tuple[int, ...]]:
    """Raw values of each class."""
    return [(entry,) if isinstance(entry, int) else entry for entry in about.values or ()]


def _submission(about: Description) -> Submission:
    """Files that can be read as masks: their names, values (the first of a class) or colours."""
    values = tuple(values[0] for values in _values(about))
    suffix = about.mask_suffix if about.mask_suffix.lower().endswith(".png") else ".png"
    return Submission(about.colours or values, folders=True, suffix=suffix)
