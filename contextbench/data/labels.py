"""Turning raw mask values into train ids, once, and the colours that train ids are drawn in.

Axes: (H, W) image pixels, height first.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contextbench.data.base import IGNORE, DataError, Sample
from contextbench.data.pictures import (
    RAW_VALUES,
    UPRIGHT,
    picture_header,
    read_image,
    read_indices,
)

_UNDECLARED = -1

Colour = tuple[int, int, int]


class MaskTable(Protocol):
    """Raw masks to train ids. A raw value is an int: what a byte holds, or a packed colour."""

    def apply(self, raw: NDArray[np.uint8], source: Path) -> NDArray[np.uint8]:
        """Raw mask -> (H, W) train ids. `DataError` naming `source` for undeclared values."""
        ...

    def histogram(self, raw: NDArray[np.uint8]) -> dict[int, int]:
        """Raw value -> its number of pixels, for the values that occur."""
        ...

    def train_id(self, value: int) -> int | None:
        """What a raw value becomes: a train id, `IGNORE`, or None for an undeclared value."""
        ...

    def shown(self, value: int) -> str:
        """A raw value as people write it."""
        ...

    def undeclared(self, values: Sequence[int], source: Path) -> str:
        """The error message for undeclared raw values in the file `source`."""
        ...

    def fingerprint_bytes(self) -> bytes:
        """The table in a byte order that does not depend on the machine."""
        ...


class LabelTable:
    """Look-up table from the raw values of an index mask to train ids.

    `train_ids` gives raw value -> train id, `ignored` the raw values that become `IGNORE`. Every
    other value is an error when it occurs in a mask: guessing a class for it would be silent.
    `hint` ends that error's message: what the likely cause is.
    """

    def __init__(
        self, train_ids: Mapping[int, int], *, ignored: Collection[int] = (), hint: str = ""
    ) -> None:
        both = sorted(set(train_ids) & set(ignored))
        if both:
            raise DataError(f"raw values {both} are declared as a class and as ignored")
        declared = {**train_ids, **dict.fromkeys(ignored, IGNORE)}
        for raw, train_id in declared.items():
            if not (0 <= raw < RAW_VALUES and 0 <= train_id <= IGNORE):
                raise DataError(f"raw value {raw} -> train id {train_id}: both must fit one byte")
        self._table = np.full(RAW_VALUES, _UNDECLARED, dtype=np.int16)
        self._table[list(declared)] = list(declared.values())
        self._hint = hint

    def apply(self, raw: NDArray[np.uint8], source: Path) -> NDArray[np.uint8]:
        """(H, W) raw values -> (H, W) train ids; `source` is the file that errors name."""
        labels = self._table[raw]
        if labels.size and labels.min() == _UNDECLARED:
            values = np.unique(raw[labels == _UNDECLARED]).tolist()
            raise DataError(self.undeclared(values, source))
        return labels.astype(np.uint8)

    def histogram(self, raw: NDArray[np.uint8]) -> dict[int, int]:
        counts = np.bincount(raw.ravel(), minlength=RAW_VALUES)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}

    def train_id(self, value: int) -> int | None:
        train_id = int(self._table[value])
        return None if train_id == _UNDECLARED else train_id

    def shown(self, value: int) -> str:
        return str(value)

    def undeclared(self, values: Sequence[int], source: Path) -> str:
        declared = in_ranges(np.flatnonzero(self._table != _UNDECLARED).tolist())
        message = f"{source}: undeclared label value(s) {in_ranges(values)}; declared: {declared}"
        return f"{message}; {self._hint}" if self._hint else message

    def fingerprint_bytes(self) -> bytes:
        return self._table.astype("<i2").tobytes()


class ColourTable:
    """The same for masks whose classes are RGB colours."""

    def __init__(
        self, train_ids: Mapping[Colour, int], *, ignored: Collection[Colour] = ()
    ) -> None:
        both = sorted(set(train_ids) & set(ignored))
        if both:
            raise DataError(f"colours {both} are declared as a class and as ignored")
        declared = {**train_ids, **dict.fromkeys(ignored, IGNORE)}
        self._ids = {_packed(colour): train_id for colour, train_id in sorted(declared.items())}
        self._colours = np.array(list(self._ids), dtype=np.int32)  # ascending
        self._labels = np.array(list(self._ids.values()), dtype=np.uint8)

    def apply(self, raw: NDArray[np.uint8], source: Path) -> NDArray[np.uint8]:
        """(H, W, 3) colours -> (H, W) train ids; `source` is the file that errors name."""
        colours = _pack(raw)
        # The place of each colour in the ascending list; a colour beyond the last has no place.
        places = np.searchsorted(self._colours, colours).clip(max=len(self._colours) - 1)
        known = self._colours[places] == colours
        if not known.all():
            raise DataError(self.undeclared(np.unique(colours[~known]).tolist(), source))
        labels: NDArray[np.uint8] = self._labels[places]
        return labels

    def histogram(self, raw: NDArray[np.uint8]) -> dict[int, int]:
        colours, counts = np.unique(_pack(raw), return_counts=True)
        return dict(zip(colours.tolist(), counts.tolist(), strict=True))

    def train_id(self, value: int) -> int | None:
        return self._ids.get(value)

    def shown(self, value: int) -> str:
        return f"#{value:06x}"

    def undeclared(self, values: Sequence[int], source: Path) -> str:
        """Of many colours, as in a photograph or a re-encoded mask, the first few."""
        shown = ", ".join(map(self.shown, values[:8]))
        more = f" and {len(values) - 8} more" if len(values) > 8 else ""
        declared = ", ".join(map(self.shown, self._ids))
        return f"{source}: undeclared colour(s) {shown}{more}; declared: {declared}"

    def fingerprint_bytes(self) -> bytes:
        return self._colours.astype("<i4").tobytes() + self._labels.tobytes()


def _packed(colour: Colour) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _pack(raw: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(H, W, 3) colours -> (H, W) one number each."""
    wide = raw.astype(np.int32)
    packed: NDArray[np.int32] = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return packed


def in_ranges(values: Iterable[int]) -> str:
    """Ascending numbers, runs of three and more shortened: "0-18, 255"."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    parts = [[f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run) for run in runs]
    return ", ".join(text for part in parts for text in part)


def read_pair(
    name: str,
    image_path: Path,
    mask_path: Path,
    table: MaskTable,
    *,
    image_reader: Callable[[Path], Tensor] = read_image,
    mask_reader: Callable[[Path], NDArray[np.uint8]] = read_indices,
) -> Sample:
    """Image and mask of one size; a different size is an error, never a resize."""
    image, raw = image_reader(image_path), mask_reader(mask_path)
    fault = size_fault(image, raw, image_path, mask_path)
    if fault is not None:
        raise DataError(fault)
    return Sample(name, image, torch.from_numpy(table.apply(raw, mask_path)))


def size_fault(
    image: Tensor, mask: NDArray[np.uint8], image_path: Path, mask_path: Path
) -> str | None:
    """What to say when a mask (H, W, ...) and its image (3, H, W) differ in size, else None."""
    if image.shape[1:] == mask.shape[:2]:
        return None
    (height, width), (mask_height, mask_width) = image.shape[1:], mask.shape[:2]
    message = (
        f"{mask_path}: mask is {mask_height}x{mask_width} but its image {image_path} is "
        f"{height}x{width} (height x width)"
    )
    if (height, width) == (mask_width, mask_height) and _has_orientation(image_path):
        message += (
            "; the image has an EXIF orientation: `orientation` in dataset.yaml says whether it is "
            "applied"
        )
    return message


def _has_orientation(path: Path) -> bool:
    try:
        return picture_header(path).orientation != UPRIGHT
    except DataError:
        return False


def bit_palette(count: int) -> tuple[Colour, ...]:
    """The colours of PASCAL VOC for the numbers 0 .. count - 1: all different, 0 is black.

    `bit_palette(count + 1)[1:]` are those of `count` classes none of which is a background.

    Bit 3k + j of a number goes to bit 7 - k of channel j: red, green, blue.
    """
    return tuple(
        (_channel(number, 0), _channel(number, 1), _channel(number, 2)) for number in range(count)
    )


def _channel(number: int, channel: int) -> int:
    return sum((number >> (3 * k + channel) & 1) << (7 - k) for k in range(8))


def ignored_colour(palette: Sequence[Colour]) -> Colour:
    """The colour of ignored pixels: that of VOC's contours, or the next that no class has."""
    taken = set(palette)
    return next(colour for colour in reversed(bit_palette(RAW_VALUES)) if colour not in taken)


def colourise(labels: NDArray[np.uint8], palette: Sequence[Colour]) -> NDArray[np.uint8]:
    """(H, W) train ids -> (H, W, 3) RGB; ids outside the palette in `ignored_colour`."""
    colours = np.full((RAW_VALUES, 3), ignored_colour(palette), dtype=np.uint8)
    colours[: len(palette)] = palette
    return colours[labels]
