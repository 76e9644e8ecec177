"""Reading images and masks from disk, and turning raw mask values into train ids, once.

Axes: (H, W) image pixels, height first.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from contextbench.data.base import IGNORE, DataError, Sample

RAW_VALUES = 256
INDEX_MODES = ("L", "P")  # one byte a pixel, read as it is stored
_UNDECLARED = -1


class LabelTable:
    """Look-up table from the raw values of a mask to train ids.

    `train_ids` gives raw value -> train id, `ignored` the raw values that become `IGNORE`. Every
    other value is an error when it occurs in a mask: guessing a class for it would be silent.
    """

    def __init__(self, train_ids: Mapping[int, int], *, ignored: Collection[int] = ()) -> None:
        both = sorted(set(train_ids) & set(ignored))
        if both:
            raise DataError(f"raw values {both} are declared as a class and as ignored")
        declared = {**train_ids, **dict.fromkeys(ignored, IGNORE)}
        for raw, train_id in declared.items():
            if not (0 <= raw < RAW_VALUES and 0 <= train_id <= IGNORE):
                raise DataError(f"raw value {raw} -> train id {train_id}: both must fit one byte")
        self._table = np.full(RAW_VALUES, _UNDECLARED, dtype=np.int16)
        self._table[list(declared)] = list(declared.values())

    def apply(self, raw: NDArray[np.uint8], source: Path) -> NDArray[np.uint8]:
        """(H, W) raw values -> (H, W) train ids; `source` is the file that errors name."""
        labels = self._table[raw]
        if labels.size and labels.min() == _UNDECLARED:
            values = np.unique(raw[labels == _UNDECLARED]).tolist()
            allowed = np.flatnonzero(self._table != _UNDECLARED).tolist()
            raise DataError(f"{source}: undeclared label value(s) {values}; declared are {allowed}")
        return labels.astype(np.uint8)

    def fingerprint_bytes(self) -> bytes:
        """The table in a byte order that does not depend on the machine."""
        return self._table.astype("<i2").tobytes()


def read_image(path: Path) -> Tensor:
    """(3, H, W) uint8 RGB; grey and palette images are converted. `DataError` if unreadable."""
    pixels = _decode(path, "RGB")
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def read_indices(path: Path) -> NDArray[np.uint8]:
    """(H, W) raw values of an index mask of mode L or P, never converted (that loses indices)."""
    return _decode(path, None)


def read_pair(name: str, image_path: Path, mask_path: Path, table: LabelTable) -> Sample:
    """Image and mask of one size; a different size is an error, never a resize."""
    image = read_image(image_path)
    labels = table.apply(read_indices(mask_path), mask_path)
    if image.shape[1:] != labels.shape:
        (height, width), (mask_height, mask_width) = image.shape[1:], labels.shape
        raise DataError(
            f"{mask_path}: mask is {mask_height}x{mask_width} but its image {image_path} is "
            f"{height}x{width} (height x width)"
        )
    return Sample(name, image, torch.from_numpy(labels))


def _decode(path: Path, convert_to: str | None) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as file:
            if convert_to is None and file.mode not in INDEX_MODES:
                raise DataError(
                    f"{path}: mask has mode {file.mode}; index masks of mode "
                    f"{' or '.join(INDEX_MODES)} are expected"
                )
            return np.array(file if convert_to is None else file.convert(convert_to))
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on damaged files
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def colourise(
    labels: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]
) -> NDArray[np.uint8]:
    """(H, W) train ids -> (H, W, 3) RGB. Ids outside the palette, ignored ones too, are black."""
    colours = np.zeros((RAW_VALUES, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    return colours[labels]
