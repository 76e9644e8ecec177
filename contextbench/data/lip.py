"""Look into Person (LIP): 20 classes with background; left and right swap in a mirror.

Source: Gong et al., "Look into person: self-supervised structure-sensitive learning and a new
benchmark for human parsing", CVPR 2017, arXiv:1703.05446.

    ROOT/{train,val}_images/{id}.jpg
    ROOT/{train,val}_segmentations/{id}.png         0 .. 19
    ROOT/testing_images/{id}.jpg                    to be predicted

ROOT may also hold the folders of the archives, each of them once or doubled as in most copies:
images below TrainVal_images/ and Testing_images/, masks below TrainVal_parsing_annotations/.

Traps: background is a scored class; sides belong to the person, so a horizontal flip exchanges
arms, legs and shoes (`LabelSet.swap`), in masks and in the logits of flipped images. The reversed
masks that come with the training set are a substitute for the exchange and are not read. Images are
persons cut from photographs, several from many of them: names begin with the photograph's number,
and images that share it are no independent draws.
"""

from pathlib import Path

from contextbench.config.sampling import Sampling
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

OFFICIAL_COUNTS = {"train": 30462, "val": 10000}

CLASSES = (
    *("background", "hat", "hair", "glove", "sunglasses", "upper-clothes", "dress", "coat"),
    *("socks", "pants", "jumpsuits", "scarf", "skirt", "face", "left-arm", "right-arm"),
    *("left-leg", "right-leg", "left-shoe", "right-shoe"),
)
SWAP = ((14, 15), (16, 17), (18, 19))
LABELS = LabelSet(
    CLASSES, bit_palette(len(CLASSES)), swap=SWAP, sampling=Sampling(cluster="^[^_]+")
)


class LIP(PairedSource):
    """No options."""

    layout = (
        "{train,val}_images/ and {train,val}_segmentations/, or the archives' TrainVal_images/ and "
        "TrainVal_parsing_annotations/ with them"
    )
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
        masks = unpacked("TrainVal_parsing_annotations")
        return match(
            self.files(
                [f"{base}/{split}_images" for base in unpacked("TrainVal_images")], IMAGE_SUFFIXES
            ),
            self.files([f"{base}/{split}_segmentations" for base in masks], MASK_SUFFIXES),
        )

    def find_unlabelled(self, _split: str) -> dict[str, Path]:
        bases = unpacked("Testing_images")
        return self.files([f"{base}/testing_images" for base in bases], IMAGE_SUFFIXES)
