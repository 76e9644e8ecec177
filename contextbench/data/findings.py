"""What reading one image and its mask shows: every fault of the two, and what they hold.

Axes: (H, W) image pixels.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from contextbench.data.base import IGNORE, DataError, Sample, SegmentationDataset
from contextbench.data.labels import Colour, size_fault
from contextbench.data.paired import PairedDataset
from contextbench.data.pictures import (
    DEEP_MODES,
    RAW_VALUES,
    UPRIGHT,
    Header,
    palette_of,
    picture_header,
)

THREADS = min(8, os.cpu_count() or 1)
NO_PICTURES = (".mat", ".pth")  # what else may hold masks
_BLOCK = 64  # images that are read before their findings are handed on

T = TypeVar("T")


class Finding(NamedTuple):
    """What reading one image and its mask showed."""

    name: str
    faults: list[str]
    size: tuple[int, int] | None = None  # (H, W), None for an unreadable image
    modes: tuple[str, str] | None = None  # of image and mask file; empty for what is no picture
    remarks: Sequence[str] = ()  # on how the two were read, the same words for all alike
    palette: Mapping[int, Colour] = {}  # index that occurs -> its colour in a palette mask
    raw: Mapping[str, int] = {}  # raw value -> pixels
    labels: Mapping[int, int] = {}  # train id or IGNORE -> pixels
    digest: str | None = None  # of the decoded image


def findings(dataset: SegmentationDataset, indices: Sequence[int]) -> Iterator[Finding]:
    """In the order of `indices`. Threads, because Pillow and hashlib release the lock."""
    if isinstance(dataset, PairedDataset):
        look: Callable[[int], Finding] = partial(_look_at_files, dataset)
    else:
        look = partial(_look_at_sample, dataset)
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(indices), _BLOCK):
            yield from pool.map(look, indices[start : start + _BLOCK])


def _look_at_files(dataset: PairedDataset, index: int) -> Finding:
    """Image and mask apart, so that a fault of one does not hide those of the other."""
    name, image_path, mask_path = dataset.pairs[index]
    table = dataset.source.table
    faults: list[str] = []
    image = _attempt(lambda: dataset.source.read_image(image_path), faults)
    raw = _attempt(lambda: dataset.source.read_mask(mask_path), faults)
    if image is not None and raw is not None:
        fault = size_fault(image, raw, image_path, mask_path)
        faults += [fault] if fault else []
    counts = {} if raw is None else table.histogram(raw)
    undeclared = [value for value in counts if table.train_id(value) is None]
    if undeclared:
        faults.append(table.undeclared(undeclared, mask_path))
    labels: Counter[int] = Counter()
    for value, count in counts.items():
        train_id = table.train_id(value)
        if train_id is not None:
            labels[train_id] += count
    image_header, mask_header = _header(image_path), _header(mask_path)
    indices = raw is not None and raw.ndim == 2
    return Finding(
        name,
        faults,
        size=None if image is None else (image.shape[1], image.shape[2]),
        modes=(_mode(image_path, image_header), _mode(mask_path, mask_header)),
        remarks=[
            *([] if image is None else _on_image(image_header, dataset.source.upright)),
            *(_on_indices(mask_header) if indices else []),
        ],
        palette=_used_palette(mask_path, mask_header, counts) if indices else {},
        raw={table.shown(value): count for value, count in counts.items()},
        labels=labels,
        digest=None if image is None else _digest(image),
    )


def _attempt(read: Callable[[], T], faults: list[str]) -> T | None:
    try:
        return read()
    except DataError as error:
        faults.append(str(error))
        return None


def _header(path: Path) -> Header | None:
    """None for what cannot be read, which is a fault already, and for masks that are no picture."""
    try:
        return picture_header(path)
    except DataError:
        return None


def _mode(path: Path, header: Header | None) -> str:
    """Pillow's mode of a picture, else the suffix of the file that holds the mask."""
    if header is not None:
        return header.mode
    suffix = (path if path.is_file() else path.parent).suffix
    return suffix if suffix in NO_PICTURES else ""


def _on_image(header: Header | None, upright: bool) -> Iterator[str]:
    """What was done to the pixels of an image that could be read."""
    if header is None:
        return
    if header.mode in ("CMYK", "YCbCr"):
        yield f"images are of mode {header.mode}: they become RGB without a colour profile"
    elif header.mode != "RGB":
        yield f"images are of mode {header.mode} and are read as RGB"
    if header.transparent:
        yield "images have transparency that no pixel uses: it is left out"
    if header.orientation != UPRIGHT:
        yield (
            "images have an EXIF orientation, which is applied"
            if upright
            else "images have an EXIF orientation, which is not applied: masks are as stored too"
        )


def _on_indices(header: Header | None) -> Iterator[str]:
    if header is not None and header.mode in ("1", "L") and header.top < RAW_VALUES - 1:
        yield f"masks store values up to {header.top}, and are read as stored, not stretched to 255"
    if header is not None and header.mode in DEEP_MODES:
        yield f"masks have {header.bits} bits a pixel; all values fit into 8"


def _used_palette(
    path: Path, header: Header | None, counts: Mapping[int, int]
) -> dict[int, Colour]:
    if header is None or header.mode != "P":
        return {}
    try:
        colours = palette_of(path)
    except DataError:
        return {}
    return {index: colours[index] for index in counts if index < len(colours)}


def _look_at_sample(dataset: SegmentationDataset, index: int) -> Finding:
    """A dataset without files shows no more than its samples."""
    try:
        sample = dataset[index]
    except DataError as error:
        return Finding(f"image {index}", [str(error)])
    faults = _form_faults(sample)
    if faults:
        return Finding(sample.name, [f"{sample.name}: {fault}" for fault in faults])
    values, counts = torch.unique(sample.labels, return_counts=True)
    labels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    classes = len(dataset.labels.classes)
    beyond = [value for value in labels if classes <= value < IGNORE]
    if beyond:
        faults.append(f"{sample.name}: train ids {beyond}, but only 0 .. {classes - 1}")
    height, width = sample.labels.shape
    return Finding(
        sample.name, faults, size=(height, width), labels=labels, digest=_digest(sample.image)
    )


def _form_faults(sample: Sample) -> list[str]:
    image, labels = sample.image, sample.labels
    faults = []
    if image.dtype != torch.uint8 or labels.dtype != torch.uint8:
        faults.append(f"image is {image.dtype}, labels {labels.dtype}; both must be uint8")
    if image.shape != (3, *labels.shape) or labels.ndim != 2:
        shapes = f"image {list(image.shape)} and labels {list(labels.shape)}"
        faults.append(f"{shapes} must be (3, H, W) and (H, W)")
    return faults


def _digest(image: Tensor) -> str:
    digest = hashlib.sha256(str(tuple(image.shape)).encode())
    digest.update(image.contiguous().numpy().data)
    return digest.hexdigest()
