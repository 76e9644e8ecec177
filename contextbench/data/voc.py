"""PASCAL VOC 2012 segmentation: 21 classes with background, contours ignored.

Source: Everingham et al., "The PASCAL visual object classes challenge", IJCV 2010 and the VOC 2012
development kit; augmented masks from Hariharan et al., "Semantic contours from inverse detectors",
ICCV 2011 (SBD).

    ROOT/VOC2012/JPEGImages/{id}.jpg
    ROOT/VOC2012/SegmentationClass/{id}.png                palette, 0 .. 20 and 255
    ROOT/VOC2012/ImageSets/Segmentation/{train,val,trainval,test}.txt
    ROOT/VOC2012/SegmentationClassAug/{id}.png             masks of SBD, converted
    ROOT/SBD/dataset/{img/{id}.jpg,cls/{id}.mat,train.txt,val.txt}     SBD as released

ROOT may also hold VOCdevkit, or be VOC2012 itself. SBD's `dataset` is also found in the folder of
its archive, benchmark_RELEASE, at the top or in SBD, and in VOCaug or VOCdevkit/VOCaug.

The split `train_aug` is built by a set rule: VOC train and all of SBD, without VOC val. SBD's
images are those of its two lists; where only `SegmentationClassAug` exists, those with a mask in
it. Images of VOC train keep their own masks, which have a void contour and finer outlines.

Traps: palette masks are read as indices; 255 is no class; SBD's own lists hold images of VOC val
and are no splits here; augmented masks are used in `train_aug` only. A number on val from a model
trained on `trainval` is none: `check-data` reports the images that both have.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contextbench.data.base import DataError, Facts, LabelSet
from contextbench.data.labels import LabelTable, bit_palette
from contextbench.data.matfiles import read_label_map
from contextbench.data.paired import IMAGE_SUFFIXES, MASK_SUFFIXES, Matches, PairedSource, match
from contextbench.data.submission import Submission

OFFICIAL_COUNTS = {"train": 1464, "val": 1449, "trainval": 2913, "train_aug": 10582}
AUGMENTED_MASKS = ("SegmentationClassAug", "sbd")
VOID = 255
PALETTE = bit_palette(256)

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
LABELS = LabelSet(CLASSES, PALETTE[: len(CLASSES)])


class VOC(PairedSource):
    """Options for `train_aug`: `augmented_masks` and `sbd`, the folder of SBD below the root.

    `augmented_masks` is `SegmentationClassAug` (default) or `sbd`, straight from SBD's .mat files.
    """

    layout = (
        "VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}/, and for train_aug "
        "VOC2012/SegmentationClassAug/ or, with the option `augmented_masks: sbd`, SBD as released "
        "in SBD/dataset/ or where the option `sbd` says"
    )
    table = LabelTable(
        {value: value for value in range(len(CLASSES))},
        ignored=(VOID,),
        hint="was a palette mask converted to grey?",
    )

    def __init__(
        self, root: Path, *, augmented_masks: str = "SegmentationClassAug", sbd: str = "SBD"
    ) -> None:
        if augmented_masks not in AUGMENTED_MASKS:
            allowed = ", ".join(AUGMENTED_MASKS)
            raise DataError(f"voc: augmented_masks {augmented_masks!r} must be one of {allowed}")
        super().__init__(root)
        self.augmented_masks = augmented_masks
        self._sbd_folder = sbd
        self.facts = Facts(
            "voc",
            LABELS,
            OFFICIAL_COUNTS,
            unlabelled={"test": 1456},
            contains={"trainval": ("train", "val"), "train_aug": ("train",)},
            submission=Submission(tuple(range(len(CLASSES))), PALETTE),
        )

    def find(self, split: str) -> Matches:
        images = self.files(f"{self._voc}/JPEGImages", IMAGE_SUFFIXES)
        masks = self.files(f"{self._voc}/SegmentationClass", MASK_SUFFIXES)
        if split != "train_aug":
            return match(images, masks, self._list(split))
        train, val = self._list("train"), self._list("val")
        augmented = self._augmented_masks()
        listed = (train | self._sbd_names(augmented)) - val
        return match({**self._sbd_images(), **images}, {**augmented, **masks}, listed)

    def find_unlabelled(self, split: str) -> dict[str, Path]:
        images = self.files(f"{self._voc}/JPEGImages", IMAGE_SUFFIXES)
        listed = self._list(split)
        missing = sorted(listed - images.keys())
        if missing:
            raise DataError(
                f"voc {split} in {self.root}: {len(missing)} images of the list do not exist, "
                f"the first is {missing[0]}"
            )
        return {name: images[name] for name in listed}

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        if path.suffix == ".mat":
            return read_label_map(path, "GTcls", "Segmentation")
        return super().read_mask(path)

    @property
    def _voc(self) -> str:
        return self.first_folder(("VOC2012", "VOCdevkit/VOC2012", "."), holding="JPEGImages")

    @property
    def _sbd(self) -> list[str]:
        """Where SBD's folder `dataset` may be."""
        own = self._sbd_folder
        archive = "benchmark_RELEASE/dataset"
        usual = [archive, "VOCaug/dataset", "VOCdevkit/VOCaug/dataset"]
        return [f"{own}/dataset", own, f"{own}/{archive}", *usual]

    def _list(self, split: str) -> set[str]:
        return self.listed(f"{self._voc}/ImageSets/Segmentation/{split}.txt")

    def _augmented_masks(self) -> dict[str, Path]:
        if self.augmented_masks == "sbd":
            return self.files([f"{base}/cls" for base in self._sbd], (".mat",))
        return self.files(f"{self._voc}/SegmentationClassAug", MASK_SUFFIXES)

    def _sbd_names(self, augmented: dict[str, Path]) -> set[str]:
        bases = self._sbd
        there = any((self.root / base / "train.txt").is_file() for base in bases)
        if self.augmented_masks == "sbd" or there:
            train, val = ([f"{base}/{split}.txt" for base in bases] for split in ("train", "val"))
            return self.listed(*train) | self.listed(*val)
        return set(augmented)

    def _sbd_images(self) -> dict[str, Path]:
        """SBD's images are in VOC's folder too; this finds them where only SBD's were kept."""
        folders = [f"{base}/img" for base in self._sbd]
        there = any((self.root / folder).is_dir() for folder in folders)
        return self.files(folders, IMAGE_SUFFIXES) if there else {}
