"""PASCAL Context: 59 classes, or 60 with background; two different tasks.

Source: Mottaghi et al., "The role of context for object detection and semantic segmentation in the
wild", CVPR 2014: annotations of the images of VOC 2010 with 459 labels, of which 59 are scored.
As released, masks hold these labels, and need SciPy:

    ROOT/VOC2010/trainval/{id}.mat, field LabelMap, with ImageSets/Main/{split}.txt of VOC

Converted masks hold 0 for background and 1 .. 59 for the classes in the ascending order of their
original numbers (2 aeroplane, 9 bag, ... 458 wood). Three layouts of them exist:

    ROOT/VOC2010/SegmentationClassContext/{id}.png with ImageSets/SegmentationContext/{split}.txt
    ROOT/VOC2010/Context/{id}.png with ImageSets/Segmentation/{split}_context.txt
    ROOT/VOC2010/{split}.pth     {2008000002: mask}, the id without its underscore

each with ROOT/VOC2010/JPEGImages/{id}.jpg; the first that exists is read, converted ones before
those released. ROOT may also hold VOCdevkit, or be VOC2010 itself, and trainval/ may be at the top.

Traps: with 59 classes 0 is ignored and v becomes v - 1, with 60 it is class 0; the same network
differs by 5 to 6 points between the two, so the option has no default. 4996 and 5104 images come
from the public JSON and are reported as differing from the official 4998 and 5105. A .pth file is
read as tensors and pictures only: nothing in it is run.
"""

import pickle
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from contextbench.data.base import DataError, Facts, LabelSet
from contextbench.data.labels import LabelTable, bit_palette
from contextbench.data.matfiles import read_matrix
from contextbench.data.paired import IMAGE_SUFFIXES, MASK_SUFFIXES, Matches, PairedSource, match
from contextbench.data.pictures import as_indices, whole_numbers

OFFICIAL_COUNTS = {"train": 4998, "val": 5105}
RELEASED_LABELS = 459
_YEAR_DIGITS = 4  # of an id: 2008_000002

CLASSES = (
    *("aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book"),
    *("bottle", "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth"),
    *("computer", "cow", "cup", "curtain", "dog", "door", "fence", "floor", "flower", "food"),
    *("grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse", "person"),
    *("plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign"),
    *("sky", "snow", "sofa", "table", "track", "train", "tree", "truck", "tvmonitor", "wall"),
    *("water", "window", "wood"),
)
_PALETTE = bit_palette(len(CLASSES) + 1)

# Number of each class among the 459 labels, in the order of `CLASSES`.
NUMBERS = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113),
    *(115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324),
    *(326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
_CONVERTED = np.zeros(RELEASED_LABELS + 1, dtype=np.uint8)  # label -> value in a converted mask
_CONVERTED[list(NUMBERS)] = range(1, len(NUMBERS) + 1)


class PascalContext(PairedSource):
    """Option `classes`: 59 or 60, to be stated."""

    layout = (
        "VOC2010/JPEGImages/ and SegmentationClassContext/ with ImageSets/SegmentationContext/, "
        "Context/ with ImageSets/Segmentation/{train,val}_context.txt, {train,val}.pth, or "
        "trainval/*.mat as released with ImageSets/Main/{train,val}.txt"
    )

    def __init__(self, root: Path, *, classes: int | None = None) -> None:
        if type(classes) is not int or classes not in (59, 60):
            raise DataError(f"pascal_context: option classes is {classes!r}: state 59 or 60")
        super().__init__(root)
        if classes == 59:
            labels = LabelSet(CLASSES, _PALETTE[1:])
            self.table = LabelTable({v: v - 1 for v in range(1, 60)}, ignored=(0,))
        else:
            labels = LabelSet(("background", *CLASSES), _PALETTE)
            self.table = LabelTable({v: v for v in range(60)})
        self.facts = Facts(f"pascal_context {classes}", labels, OFFICIAL_COUNTS)

    def find(self, split: str) -> Matches:
        candidates = ("VOC2010", "VOCdevkit/VOC2010", ".")
        voc = self.first_folder(candidates, holding="JPEGImages")
        images = self.files(f"{voc}/JPEGImages", IMAGE_SUFFIXES)
        layouts = {
            f"{voc}/SegmentationClassContext": f"{voc}/ImageSets/SegmentationContext/{split}.txt",
            f"{voc}/Context": f"{voc}/ImageSets/Segmentation/{split}_context.txt",
        }
        for folder, list_file in layouts.items():
            if (self.root / folder).is_dir():
                return match(images, self.files(folder, MASK_SUFFIXES), self.listed(list_file))
        path = self.root / voc / f"{split}.pth"
        if path.is_file():
            masks = {_with_underscore(key): path / str(key) for key in _read_masks(path)}
            return match(images, masks, masks)
        released = [f"{voc}/trainval", "trainval"]
        if not any((self.root / folder).is_dir() for folder in released):
            others = [self.root / folder for folder in (*layouts, *released)]
            raise self.missing("file", [path, *others])
        masks = self.files(released, (".mat",))
        return match(images, masks, self.listed(f"{voc}/ImageSets/Main/{split}.txt"))

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        if path.suffix == ".mat":
            labels = whole_numbers(read_matrix(path, "LabelMap"), path, RELEASED_LABELS)
            converted: NDArray[np.uint8] = _CONVERTED[labels]
            return converted
        if path.parent.suffix != ".pth":
            return super().read_mask(path)
        mask = _read_masks(path.parent)[int(path.name)]
        if isinstance(mask, Tensor):
            return as_indices(mask.numpy(), path)
        if mask.mode not in ("L", "P"):
            raise DataError(f"{path}: mask has mode {mask.mode}; L or P are expected")
        return np.array(mask)


def _with_underscore(key: int) -> str:
    return f"{str(key)[:_YEAR_DIGITS]}_{str(key)[_YEAR_DIGITS:]}"


@lru_cache(maxsize=2)  # both splits; a process reads each file once, a loader worker too
def _read_masks(path: Path) -> dict[int, Tensor | Image.Image]:
    """All masks of a split, by id. Raises `DataError` for anything but tensors and pictures."""
    try:
        with torch.serialization.safe_globals([Image.Image]):  # as released, masks are of this type
            masks = torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        EOFError,
        ValueError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read as masks by id ({reason})") from error
    valid = isinstance(masks, dict) and all(
        isinstance(key, int) and isinstance(mask, Tensor | Image.Image)
        for key, mask in masks.items()
    )
    if not valid:
        raise DataError(f"{path}: must hold a dictionary from a whole number to a mask")
    return dict(masks)
