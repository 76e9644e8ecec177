"""COCO-Stuff: 171 classes, 80 things and 91 stuff, in two releases that differ in encoding.

Source: Caesar, Uijlings, Ferrari, "COCO-Stuff: thing and stuff classes in context", CVPR 2018,
arXiv:1612.03716; label numbers 1 .. 182 and names as published with it.

    release 10k (v1.1), splits train and test; field S holds label n as n, unlabelled as 0
        ROOT/images/{name}.jpg, annotations/{name}.mat, imageLists/{train,test}.txt
    release 164k, splits train and val; masks hold label n as n - 1, unlabelled as 255
        ROOT/images/{train2017,val2017}/{name}.jpg, annotations/{train2017,val2017}/{name}.png
        or, beside other annotations of COCO, ROOT/{train2017,val2017}/{name}.jpg and
        ROOT/{stuffthingmaps,stuffthingmaps_trainval2017}/{train2017,val2017}/{name}.png

The lists of 10k are also found in imagesLists/.

Converted masks `{name}_labelTrainIds.png` are read with the option `masks`: of 10k they hold
1 .. 171 and 0 for unlabelled, in any folder below annotations/; of 164k 0 .. 170 and 255.

Traps: eleven of the 182 numbers never occur, and a mask that has one, or a value beyond the
encoding's last, is refused: it is of the other release, converted, or of 10k v1.0. That version
numbers 172 classes from 1, and is also told by the list of names in its files. Results on the two
releases are not comparable, so the option has no default. The stuff challenge of 2017, which merges
all things into label 183, is a third task and is not read.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contextbench.data.base import DataError, Facts, LabelSet
from contextbench.data.labels import LabelTable, bit_palette
from contextbench.data.matfiles import read_label_map, read_optional
from contextbench.data.paired import (
    IMAGE_SUFFIXES,
    Matches,
    PairedSource,
    by_stem,
    match,
)
from contextbench.data.submission import Submission

OFFICIAL_COUNTS = {
    "10k": {"train": 9000, "test": 1000},
    "164k": {"train": 118287, "val": 5000},
}
ENCODINGS = ("original", "labelTrainIds")
NEVER_USED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
_NAMES_OF_VERSION_1_0 = 172  # with "unlabeled" first; v1.1 numbers 182
_CONVERTED = "_labelTrainIds.png"

# Labels 1 .. 182 without the eleven that never occur.
CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote"),
    *("keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book"),
    *("clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
    *("banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage"),
    *("cardboard", "carpet", "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds"),
    *("counter", "cupboard", "curtain", "desk-stuff", "dirt", "door-stuff", "fence"),
    *("floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog"),
    *("food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill"),
    *("house", "leaves", "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud"),
    *("napkin", "net", "paper", "pavement", "pillow", "plant-other", "plastic", "platform"),
    *("playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad"),
    *("sand", "sea", "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs"),
    *("stone", "straw", "structural-other", "table", "tent", "textile-other", "towel", "tree"),
    *("vegetable", "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone"),
    *("wall-tile", "wall-wood", "water-other", "waterdrops", "window-blind", "window-other"),
    *("wood",),
)
LABELS = LabelSet(CLASSES, bit_palette(len(CLASSES) + 1)[1:])  # black is for unlabelled pixels
_NUMBERS = tuple(number for number in range(1, 183) if number not in NEVER_USED)


class COCOStuff(PairedSource):
    """Options: `release`, 10k or 164k, to be stated; `masks`: original (default), labelTrainIds."""

    layout = (
        "images/, annotations/ and imageLists/ (10k), or "
        "images/{train2017,val2017}/ and annotations/{train2017,val2017}/ (164k)"
    )
    others = (_CONVERTED, "_instanceTrainIds.png")

    def __init__(self, root: Path, *, release: str | None = None, masks: str = "original") -> None:
        if release not in tuple(OFFICIAL_COUNTS):
            allowed = " or ".join(OFFICIAL_COUNTS)
            raise DataError(f"coco_stuff: option release is {release!r}: state {allowed}")
        if masks not in ENCODINGS:
            raise DataError(f"coco_stuff: masks {masks!r} must be one of {', '.join(ENCODINGS)}")
        super().__init__(root)
        self.release, self.converted = release, masks == "labelTrainIds"
        self.table = _table(release, self.converted)
        shift = 0 if release == "10k" else 1
        self.facts = Facts(
            f"coco_stuff {release}",
            LABELS,
            OFFICIAL_COUNTS[release],
            submission=Submission(tuple(number - shift for number in _NUMBERS)),
        )

    def find(self, split: str) -> Matches:
        if self.release == "10k":
            images = by_stem(self.files("images", IMAGE_SUFFIXES))
            suffix = _CONVERTED if self.converted else ".mat"
            masks = by_stem(self.files("annotations", (suffix,)))
            lists = (f"imageLists/{split}.txt", f"imagesLists/{split}.txt")
            return match(images, masks, self.listed(*lists))
        folder = f"{split}2017"
        images = self.files((f"images/{folder}", folder), IMAGE_SUFFIXES)
        tops = ("annotations", "stuffthingmaps", "stuffthingmaps_trainval2017")
        folders = [f"{top}/{folder}" for top in tops]
        if self.converted:
            return match(images, self.files(folders, (_CONVERTED,)))
        # The usual conversion writes its masks into the folder of the originals.
        return match(images, self.files(folders, (".png",), without=_CONVERTED))

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        if path.suffix != ".mat":
            return super().read_mask(path)
        names = read_optional(path, "names")
        if names is not None and np.size(names) == _NAMES_OF_VERSION_1_0:
            raise DataError(
                f"{path}: is of version 1.0, which numbers the labels differently; "
                "version 1.1 of the 10k release is needed"
            )
        return read_label_map(path, "S")


def _table(release: str, converted: bool) -> LabelTable:
    first = 1 if release == "10k" else 0  # raw value of the lowest label
    ignored = (0,) if release == "10k" else (255,)
    if converted:
        train_ids = {train_id + first: train_id for train_id in range(len(CLASSES))}
    else:
        train_ids = {number - 1 + first: k for k, number in enumerate(_NUMBERS)}
    encoding = "labelTrainIds" if converted else "original"
    return LabelTable(
        train_ids,
        ignored=ignored,
        hint=f"the mask is not of release {release} in the encoding {encoding!r}: the other "
        "release, the other encoding and version 1.0 number the labels differently",
    )
