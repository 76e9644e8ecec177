"""Cityscapes, fine annotations: 2048 x 1024 driving frames, 19 classes.

Source: Cordts et al., "The Cityscapes dataset for semantic urban scene understanding", CVPR 2016,
arXiv:1604.01685; ids, names and colours as in the published label table.

    ROOT/leftImg8bit/{train,val,test}/{city}/{city}_{sequence}_{frame}_leftImg8bit.png
    ROOT/gtFine/{train,val}/{city}/{city}_{sequence}_{frame}_gtFine_labelIds.png
    ROOT/gtFine/{train,val}/{city}/{city}_{sequence}_{frame}_gtFine_labelTrainIds.png

Every image is from another snippet of 1.8 seconds, but snippets of a city follow each other along a
drive, and so do the names: neighbours are declared as frames in order. The statistics draw them one
by one where scores of neighbours are not alike.

`labelIds` are in the download and hold 0 .. 33, of which 19 are scored; `labelTrainIds` are made
by the official conversion and hold 0 .. 18 and 255. Predictions for the server hold label ids.

Traps: only files with the suffix of the chosen encoding are masks, so that colour images and
instance ids are not; a value that the encoding does not have is refused, so that one cannot be
taken for the other; the masks of `test` hold no classes, and the coarse `train_extra` is no split.
Licence plates have id -1 in the label table, but polygons of negative ids are not drawn.
"""

from pathlib import Path

from contextbench.config.sampling import Sampling
from contextbench.data.base import DataError, Facts, LabelSet
from contextbench.data.labels import LabelTable
from contextbench.data.paired import Matches, PairedSource, match
from contextbench.data.submission import Submission

OFFICIAL_COUNTS = {"train": 2975, "val": 500}
SIZE = (1024, 2048)
LABEL_IDS = range(34)
ENCODINGS = ("labelIds", "labelTrainIds")

_CLASSES: dict[str, tuple[int, tuple[int, int, int]]] = {  # name: label id, colour
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
LABELS = LabelSet(
    tuple(_CLASSES),
    tuple(colour for _, colour in _CLASSES.values()),
    sampling=Sampling(frames="ordered"),
)
_IDS = tuple(label_id for label_id, _ in _CLASSES.values())


class Cityscapes(PairedSource):
    """Option `masks`: `labelIds` (default) or `labelTrainIds`."""

    layout = "leftImg8bit/{train,val}/CITY/ and gtFine/{train,val}/CITY/"
    others = (
        *("_gtFine_color.png", "_gtFine_instanceIds.png"),
        *(f"_gtFine_{encoding}.png" for encoding in ENCODINGS),
    )

    def __init__(self, root: Path, *, masks: str = "labelIds") -> None:
        if masks not in ENCODINGS:
            raise DataError(f"cityscapes: masks {masks!r} must be one of {', '.join(ENCODINGS)}")
        super().__init__(root)
        self.masks = masks
        self.table = _table(masks)
        self.facts = Facts(
            "cityscapes",
            LABELS,
            OFFICIAL_COUNTS,
            unlabelled={"test": 1525},
            size=SIZE,
            submission=Submission(_IDS),
        )

    def find(self, split: str) -> Matches:
        images = self.files(f"leftImg8bit/{split}", ("_leftImg8bit.png",))
        masks = self.files(f"gtFine/{split}", (f"_gtFine_{self.masks}.png",))
        if images and not masks:
            self._explain_missing(split)
        return match(images, masks)

    def find_unlabelled(self, split: str) -> dict[str, Path]:
        return self.files(f"leftImg8bit/{split}", ("_leftImg8bit.png",))

    def _explain_missing(self, split: str) -> None:
        """Say so where the masks are all there, but in the other encoding."""
        (other,) = set(ENCODINGS) - {self.masks}
        if self.files(f"gtFine/{split}", (f"_gtFine_{other}.png",)):
            raise DataError(
                f"cityscapes {split} in {self.root}: no masks *_gtFine_{self.masks}.png, but "
                f"*_gtFine_{other}.png; set dataset.options.masks to {other}"
            )


def _table(masks: str) -> LabelTable:
    if masks == "labelIds":
        return LabelTable(
            {label_id: train_id for train_id, label_id in enumerate(_IDS)},
            ignored=set(LABEL_IDS) - set(_IDS),
            hint="255 is in files of train ids, which the option `masks: labelTrainIds` reads",
        )
    return LabelTable(
        {train_id: train_id for train_id in range(len(_IDS))},
        ignored=(255,),
        hint="19-33 are in files of label ids, which the option `masks: labelIds` reads",
    )
