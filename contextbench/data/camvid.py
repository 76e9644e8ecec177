"""CamVid in the SegNet split: 480 x 360 driving frames, 11 classes, void ignored.

Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition
Letters 2009; split and index masks as published with SegNet (Badrinarayanan et al., 2017).

    ROOT/{train,val,test}/{stem}.png or .jpg      images
    ROOT/{train,val,test}annot/{stem}.png         masks, mode L, 0 .. 10 and 11 (void)
    ROOT/{train,val,test}.txt                     optional lists of pairs

Where a list file exists it decides the split; only the file names in it are used, because the
published lists carry absolute paths. Otherwise the folders are the split.

Frames of videos in order of their names, four drives in all: neighbours are alike.

Traps: the original release has 960 x 720 images and colour masks of 32 classes, and some tutorials
make void class 0: both are refused, by the mode of the masks or by their values.
"""

from pathlib import Path

from contextbench.config.sampling import Sampling
from contextbench.data.base import Facts, LabelSet
from contextbench.data.labels import LabelTable
from contextbench.data.paired import IMAGE_SUFFIXES, MASK_SUFFIXES, Matches, PairedSource, match

OFFICIAL_COUNTS = {"train": 367, "val": 101, "test": 233}
SIZE = (360, 480)
VOID = 11

_CLASSES: dict[str, tuple[int, int, int]] = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign-symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
LABELS = LabelSet(
    classes=tuple(_CLASSES),
    palette=tuple(_CLASSES.values()),
    sampling=Sampling(frames="ordered"),
)


class CamVid(PairedSource):
    """No options."""

    layout = "{train,val,test}/ and {train,val,test}annot/"
    table = LabelTable({train_id: train_id for train_id in range(len(_CLASSES))}, ignored=(VOID,))

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.facts = Facts("camvid", LABELS, OFFICIAL_COUNTS, size=SIZE)

    def find(self, split: str) -> Matches:
        images = self.files(split, IMAGE_SUFFIXES)
        masks = self.files(f"{split}annot", MASK_SUFFIXES)
        list_file = f"{split}.txt"
        listed = self.listed(list_file) if (self.root / list_file).is_file() else None
        return match(images, masks, listed)
