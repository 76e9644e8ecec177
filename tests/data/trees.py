"""Small trees of files in the official layouts, for tests.

Every mask holds `VALUES` of its dataset, at least one raw value of each kind; images are noise, so
that no two are alike.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

SIZE = (6, 8)  # (H, W)
VOC_IDS = {"train": ("2007_000032", "2007_000039"), "val": ("2007_000033",)}
# SBD has images of VOC's train and of its val.
SBD_IDS = {"train": ("2007_000033", "2007_000039", "2008_000002"), "val": ("2008_000003",)}


def filled(values: Sequence[int], size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """(H, W) with the values repeated in order."""
    return np.resize(np.array(values, dtype=np.uint8), size)


def write_image(path: Path, size: tuple[int, int] = SIZE, mode: str = "RGB") -> Path:
    """Noise that the path decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = list(path.as_posix().encode()[-40:])
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def write_mask(path: Path, pixels: NDArray[np.uint8], palette: Sequence[int] | None = None) -> Path:
    """An index mask of mode L, of mode P with a palette, or RGB for three channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette is not None:
        picture.putpalette(palette)
    picture.save(path)
    return path


def write_list(path: Path, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_mat(path: Path, **variables: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)
    return path


def camvid(root: Path, splits: Sequence[str] = ("train", "val", "test")) -> Path:
    """Two frames a split, with list files of another machine."""
    for split in splits:
        stems = [f"{split}_{number:05}" for number in (30, 60)]
        for stem in stems:
            write_image(root / split / f"{stem}.png", (360, 480))
            write_mask(root / f"{split}annot" / f"{stem}.png", filled(range(12), (360, 480)))
        lines = [
            f"/SegNet/CamVid/{split}/{s}.png /SegNet/CamVid/{split}annot/{s}.png" for s in stems
        ]
        write_list(root / f"{split}.txt", lines)
    return root


def cityscapes(root: Path, encodings: Sequence[str] = ("labelIds",)) -> Path:
    """Two cities of train and one of val, with the files that the download has beside the masks."""
    values = {"labelIds": range(34), "labelTrainIds": [*range(19), 255]}
    for split, cities in {"train": ("aachen", "ulm"), "val": ("lindau",)}.items():
        for city in cities:
            stem = f"{city}_000000_000019"
            write_image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
            masks = root / "gtFine" / split / city
            for encoding in encodings:
                write_mask(masks / f"{stem}_gtFine_{encoding}.png", filled(values[encoding]))
            write_image(masks / f"{stem}_gtFine_color.png")
            write_mask(masks / f"{stem}_gtFine_instanceIds.png", filled([26]))
    return root


def ade20k(root: Path) -> Path:
    for split, folder in {"train": "training", "val": "validation"}.items():
        for number in (1, 2):
            stem = f"ADE_{split}_{number:08}"
            write_image(root / "images" / folder / f"{stem}.jpg", (10, 16))
            write_mask(root / "annotations" / folder / f"{stem}.png", filled(range(151), (10, 16)))
    return root


def voc(root: Path, *, augmented: Sequence[str] = ("SegmentationClassAug", "SBD")) -> Path:
    """VOC 2012 with palette masks, and SBD as released, as converted masks, or both."""
    base = root / "VOC2012"
    for split, ids in VOC_IDS.items():
        write_list(base / "ImageSets/Segmentation" / f"{split}.txt", ids)
        for name in ids:
            write_mask(
                base / "SegmentationClass" / f"{name}.png",
                filled([*range(21), 255]),
                palette=list(range(255, -1, -1)) * 3,
            )
    both = sorted({*VOC_IDS["train"], *VOC_IDS["val"]})
    write_list(base / "ImageSets/Segmentation/trainval.txt", both)
    sbd = sorted({*SBD_IDS["train"], *SBD_IDS["val"]})
    for name in {*both, *sbd}:
        write_image(base / "JPEGImages" / f"{name}.jpg")
    for name in sbd:
        if "SegmentationClassAug" in augmented:
            write_mask(base / "SegmentationClassAug" / f"{name}.png", filled([0, 20]))
        if "SBD" in augmented:
            contents = {"Segmentation": filled([0, 20])}
            write_mat(root / "SBD/dataset/cls" / f"{name}.mat", GTcls=contents)
    if "SBD" in augmented:
        for split, ids in SBD_IDS.items():
            write_list(root / "SBD/dataset" / f"{split}.txt", ids)
    return root


CONTEXT_IDS = {"train": ("2008_000002", "2008_000003"), "val": ("2008_000007",)}


# Of the 59 classes among 459 labels, ascending; written out again, on purpose.
CONTEXT_NUMBERS = [
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105),
    *(113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308),
    *(324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454),
    458,
]


def pascal_context(root: Path, layout: str = "SegmentationClassContext") -> Path:
    """`layout`: a folder of masks, pth (of tensors), pictures (a .pth as released), trainval."""
    base = root / "VOC2010"
    lists = {
        "SegmentationClassContext": "ImageSets/SegmentationContext/{split}.txt",
        "Context": "ImageSets/Segmentation/{split}_context.txt",
    }
    for split, ids in CONTEXT_IDS.items():
        for name in ids:
            write_image(base / "JPEGImages" / f"{name}.jpg", (8, 8))
        mask = filled(range(60), (8, 8))
        if layout == "trainval":
            write_list(base / f"ImageSets/Main/{split}.txt", ids)
            labels = np.resize(np.array([0, *CONTEXT_NUMBERS, 1, 459], dtype=np.uint16), (8, 8))
            for name in ids:
                write_mat(base / f"trainval/{name}.mat", LabelMap=labels)
        elif layout in lists:
            write_list(base / lists[layout].format(split=split), ids)
            for name in ids:
                write_mask(base / layout / f"{name}.png", mask)
        else:
            value = Image.fromarray(mask) if layout == "pictures" else torch.from_numpy(mask)
            masks = {int(name.replace("_", "")): value for name in ids}
            torch.save(masks, base / f"{split}.pth")
    return root


COCO_SIZE = (14, 14)
NEVER_USED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}  # written out again, on purpose
COCO_LABELS = [number for number in range(1, 183) if number not in NEVER_USED]


def coco_stuff_10k(root: Path, *, converted: bool = False) -> Path:
    """Masks as doubles in .mat files of v1.1, or converted ones in folders of their split."""
    for split, names in {
        "train": ("COCO_train2014_1", "COCO_train2014_2"),
        "test": ("x_3",),
    }.items():
        write_list(root / "imageLists" / f"{split}.txt", names)
        folder = f"{split}2014" if converted else "."
        for name in names:
            write_image(root / "images" / folder / f"{name}.jpg", COCO_SIZE)
            if converted:
                path = root / "annotations" / folder / f"{name}_labelTrainIds.png"
                write_mask(path, filled(range(172), COCO_SIZE))
            else:
                labels = filled([0, *COCO_LABELS], COCO_SIZE).astype(np.float64)
                write_mat(root / "annotations" / f"{name}.mat", S=labels, captions="a scene")
    return root


def coco_stuff_164k(root: Path, *, encodings: Sequence[str] = ("original",)) -> Path:
    values = {"original": [n - 1 for n in COCO_LABELS], "labelTrainIds": list(range(171))}
    suffixes = {"original": "", "labelTrainIds": "_labelTrainIds"}
    for split, names in {
        "train2017": ("000000000009", "000000000025"),
        "val2017": ("139",),
    }.items():
        for name in names:
            write_image(root / "images" / split / f"{name}.jpg", COCO_SIZE)
            for encoding in encodings:
                path = root / "annotations" / split / f"{name}{suffixes[encoding]}.png"
                write_mask(path, filled([*values[encoding], 255], COCO_SIZE))
    return root


def lip(root: Path, *, unpacked: bool = True) -> Path:
    images = root if unpacked else root / "TrainVal_images"
    masks = root if unpacked else root / "TrainVal_parsing_annotations"
    for split, names in {"train": ("77_1", "77_2"), "val": ("100034_483681",)}.items():
        for name in names:
            write_image(images / f"{split}_images" / f"{name}.jpg")
            write_mask(masks / f"{split}_segmentations" / f"{name}.png", filled(range(20)))
    return root


FOLDER = """
classes: [road, left kerb, right kerb]
values: [1, [2, 3], 7]
ignored: [0]
image_suffix: _photo.jpg
mask_suffix: _labels.png
splits: [train, val]
swap: [[left kerb, right kerb]]
"""


def folder(root: Path, description: str = FOLDER) -> Path:
    """Images with subfolders, and one stem in two of them."""
    write_list(root / "dataset.yaml", description.strip().splitlines())
    for split, first in {"train": 1, "val": 101}.items():
        for name in (f"monday/{first:04}", f"tuesday/{first:04}", f"{first + 1:04}"):
            write_image(root / "images" / split / f"{name}_photo.jpg")
            mask = filled([0, 1, 2, 3, 7])
            write_mask(root / "masks" / split / f"{name}_labels.png", mask)
    return root
