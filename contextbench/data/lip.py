"""Look into Person (LIP): 20 classes with background; left and right swap in a mirror.

Source: Gong et al., "Look into person: self-supervised structure-sensitive learning and a new
benchmark for human parsing", CVPR 2017, arXiv:1703.05446.

    ROOT/{train,val}_images/{id}.jpg
    ROOT/{train,val}_segmentations/{id}.png         0 .. 19
    ROOT/testing_images/{id}.jpg                    to be predicted

ROOT may also hold the folders of the archives: images below TrainVal_images/ and Testing_images/,
masks below TrainVal_parsing_annotations/, where some copies have that folder twice.

Traps: background is a scored class; sides belong to the person, so a horizontal flip exchanges
arms, legs and shoes (`LabelSet.swap`), in masks and in the logits of flipped images. The reversed
masks that come with the training set are a substitute for the exchange and are not read.
"""

from pathlib import Path

from contextbench.data.base import Facts, LabelSet
from contextbench.data.labels import LabelTable, bit_palette
from contextbench.data.paired import IMAGE_SUFFIXES, MASK_SUFFIXES, Matches, PairedSource, match
from contextbench.data.submission import Submission

OFFICIAL_COUNTS = {"train": 30462, "val": 10000}

CLASSES = (
    *("background", "hat", "hair", "glove", "sunglasses", "upper-clothes", "dress", "coat"),
    *("socks", "pants", "jumpsuits", "scarf", "skirt", "face", "left-arm", "right-arm"),
    *("left-leg", "right-leg", "left-shoe", "right-shoe"),
)
SWAP = ((14, 15), (16, 17), (18, 19))
LABELS = LabelSet(CLASSES, bit_palette(len(CLASSES)), swap=SWAP)
_ANNOTATIONS = "TrainVal_parsing_annotations"


class LIP(PairedSource):
    """No options."""

    layout = "{train,val}_images/ and {train,val}_segmentations/"
    table = LabelTable({value: value for value in range(len(CLASSES))})

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.facts = Facts(
            "lip",
            LABELS,
            OFFICIAL_COUNTS,
            unlabelled={"test": 10000},
            submission=Submission(tuple(range(len(CLASSES)))),
        )

    def find(self, split: str) -> Matches:
        images, masks = f"{split}_images", f"{split}_segmentations"
        image_folder = self.first_folder((".", "TrainVal_images"), holding=images)
        mask_folder = self.first_folder(
            (".", _ANNOTATIONS, f"{_ANNOTATIONS}/{_ANNOTATIONS}"), holding=masks
        )
        return match(
            self.files(f"{image_folder}/{images}", IMAGE_SUFFIXES),
            self.files(f"{mask_folder}/{masks}", MASK_SUFFIXES),
        )

    def find_unlabelled(self, _split: str) -> dict[str, Path]:
        folder = "testing_images"
        archive = "Testing_images"
        candidates = (".", archive, f"{archive}/{archive}")
        return self.files(
            f"{self.first_folder(candidates, holding=folder)}/{folder}", IMAGE_SUFFIXES
        )
