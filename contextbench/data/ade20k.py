"""ADE20K scene parsing benchmark: 150 classes, everything else ignored.

Source: Zhou et al., "Scene parsing through ADE20K dataset", CVPR 2017; images, masks and the list
objectInfo150.txt as released for the scene parsing challenge of 2016.

    ROOT/images/{training,validation}/ADE_{train,val}_{number}.jpg
    ROOT/annotations/{training,validation}/ADE_{train,val}_{number}.png
    ROOT/release_test/testing/ADE_test_{number}.jpg             to be predicted; images/testing too

ROOT may also hold the folder ADEChallengeData2016 of the archive. Mask value 0 is "other objects"
and ignored, value v in 1 .. 150 is train id v - 1; predictions for the server hold 1 .. 150.

Traps: the shift is in the table and nowhere else, so it happens once; a mask that was shifted
before has the value 255 and is refused; the full ADE20K release codes classes in two channels of
colour masks and is refused by their mode; a few images are grey and become RGB.
"""

from pathlib import Path

from contextbench.data.base import Facts, LabelSet
from contextbench.data.labels import LabelTable, bit_palette
from contextbench.data.paired import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    Matches,
    PairedSource,
    match,
    unpacked,
)
from contextbench.data.submission import Submission

OFFICIAL_COUNTS = {"train": 20210, "val": 2000}
_FOLDERS = {"train": "training", "val": "validation"}

CLASSES = (
    *("wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass"),
    *("cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain"),
    *("chair", "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug"),
    *("field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub"),
    *("railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter"),
    *("sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs"),
    *("runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge"),
    *("bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench"),
    *("countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar"),
    *("arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier"),
    *("awning", "streetlight", "booth", "television receiver", "airplane", "dirt track"),
    *("apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle", "buffet"),
    *("poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer"),
    *("plaything", "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag"),
    *("minibike", "cradle", "oven", "ball", "food", "step", "tank", "trade name", "microwave"),
    *("pot", "animal", "bicycle", "lake", "dishwasher", "screen", "blanket", "sculpture", "hood"),
    *("sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier", "crt screen", "plate"),
    *("monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag"),
)
LABELS = LabelSet(CLASSES, bit_palette(len(CLASSES) + 1)[1:])  # black is for ignored pixels


class ADE20K(PairedSource):
    """No options."""

    layout = "images/{training,validation}/ and annotations/{training,validation}/"
    table = LabelTable(
        {train_id + 1: train_id for train_id in range(len(CLASSES))},
        ignored=(0,),
        hint="255 is in masks that were shifted before; use the released ones",
    )

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.facts = Facts(
            "ade20k",
            LABELS,
            OFFICIAL_COUNTS,
            unlabelled={"test": 3352},
            submission=Submission(tuple(range(1, len(CLASSES) + 1))),
        )

    def find(self, split: str) -> Matches:
        folder, bases = _FOLDERS[split], unpacked("ADEChallengeData2016")
        images = self.files([f"{base}/images/{folder}" for base in bases], IMAGE_SUFFIXES)
        masks = self.files([f"{base}/annotations/{folder}" for base in bases], MASK_SUFFIXES)
        return match(images, masks)

    def find_unlabelled(self, _split: str) -> dict[str, Path]:
        places = ("release_test/testing", "images/testing")
        bases = unpacked("ADEChallengeData2016")
        return self.files([f"{base}/{each}" for base in bases for each in places], IMAGE_SUFFIXES)
