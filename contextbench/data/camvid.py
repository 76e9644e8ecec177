"""CamVid in the SegNet split: 480 x 360 driving frames, 11 classes, void ignored.

Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition
Letters 2009; split and index masks as published with SegNet (Badrinarayanan et al., 2017).

    ROOT/{train,val,test}/{stem}.png or .jpg      images
    ROOT/{train,val,test}annot/{stem}.png         masks, mode L, 0 .. 10 and 11 (void)
    ROOT/{train,val,test}.txt                     optional lists of pairs

Where a list file exists it decides the split; only the file names in it are used, because the
published lists carry absolute paths. Otherwise the folders are the split.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from contextbench.data.base import DataError, LabelSet, Sample
from contextbench.data.labels import LabelTable, read_pair

OFFICIAL_COUNTS = {"train": 367, "val": 101, "test": 233}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MASK_SUFFIXES = (".png",)
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
LABELS = LabelSet(classes=tuple(_CLASSES), palette=tuple(_CLASSES.values()))
TABLE = LabelTable({train_id: train_id for train_id in range(len(_CLASSES))}, ignored=(VOID,))


class _Pair(NamedTuple):
    stem: str
    image: Path
    mask: Path


class CamVid:
    """One split of CamVid, in the order of the stems. Warns when the official count differs."""

    labels = LABELS

    def __init__(self, root: Path, split: str) -> None:
        if split not in OFFICIAL_COUNTS:
            allowed = ", ".join(OFFICIAL_COUNTS)
            raise DataError(f"camvid: unknown split {split!r}; allowed are {allowed}")
        self.root, self.split = root, split
        self._pairs = _find_pairs(root, split)
        if len(self._pairs) != OFFICIAL_COUNTS[split]:
            warnings.warn(
                f"camvid {split}: {len(self._pairs)} images in {root}, "
                f"the official split has {OFFICIAL_COUNTS[split]}",
                stacklevel=2,
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        return read_pair(*self._pairs[index], TABLE)

    def fingerprint(self) -> str:
        """Hex digest over the file names of the split, mask files, mapping table and classes."""
        names = [(pair.image.name, pair.mask.name) for pair in self._pairs]
        facts = {"split": self.split, "pairs": names, "classes": self.labels.classes}
        digest = hashlib.sha256(json.dumps(facts).encode())
        digest.update(TABLE.fingerprint_bytes())
        for pair in self._pairs:
            digest.update(hashlib.sha256(pair.mask.read_bytes()).digest())
        return digest.hexdigest()


def _find_pairs(root: Path, split: str) -> list[_Pair]:
    images = _files_by_stem(root, split, IMAGE_SUFFIXES)
    masks = _files_by_stem(root, f"{split}annot", MASK_SUFFIXES)
    list_file = root / f"{split}.txt"
    if list_file.is_file():
        stems = _listed_stems(list_file)
        without_image, without_mask = sorted(stems - images.keys()), sorted(stems - masks.keys())
    else:
        stems = images.keys() & masks.keys()
        without_image, without_mask = sorted(masks.keys() - stems), sorted(images.keys() - stems)
    if without_image or without_mask:
        raise DataError(
            f"camvid {split} in {root}: {_examples('masks without image', without_image)}; "
            f"{_examples('images without mask', without_mask)}"
        )
    if not stems:
        raise DataError(
            f"camvid: no images with suffix {_any_of(IMAGE_SUFFIXES)} in {root / split}"
        )
    return [_Pair(stem, images[stem], masks[stem]) for stem in sorted(stems)]


def _files_by_stem(root: Path, folder: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
    if not (root / folder).is_dir():
        raise DataError(
            f"camvid: folder {root / folder} does not exist; expected {root} to hold "
            f"{{train,val,test}}/ and {{train,val,test}}annot/. Pass --data-root FOLDER, "
            "where FOLDER or FOLDER/camvid holds them, or set CONTEXTBENCH_DATA"
        )
    files: dict[str, Path] = {}
    for path in sorted((root / folder).iterdir()):
        if path.suffix.lower() not in suffixes:
            continue
        if path.stem in files:
            raise DataError(f"camvid: {path} and {files[path.stem].name} have the same stem")
        files[path.stem] = path
    return files


def _listed_stems(list_file: Path) -> set[str]:
    """Stems of the first path of each line: image and mask of a pair share their stem."""
    lines = list_file.read_text(encoding="utf-8").splitlines()
    return {Path(line.split()[0]).stem for line in lines if line.strip()}


def _examples(what: str, stems: list[str], shown: int = 5) -> str:
    tail = ", ..." if len(stems) > shown else ""
    return f"{len(stems)} {what}" + (f" ({', '.join(stems[:shown])}{tail})" if stems else "")


def _any_of(suffixes: Iterable[str]) -> str:
    return " or ".join(suffixes)
