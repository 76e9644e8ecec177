"""Picture files as pixels, changed by nothing but what this page says.

What Pillow does to pixels on the way is either exact, or a convention that is named here, or
refused with what to do instead. Bits are those of a sample, grey levels those of the file.

| file                               | as an image         | as indices         | as colours      |
|------------------------------------|---------------------|--------------------|-----------------|
| grey, 8 bits                       | R = G = B           | its values         | R = G = B       |
| grey, 1, 2, 4 bits, PGM up to N    | stretched to 0-255  | 0 to 1, 3, 15, N   | as an image     |
| grey, 16 or 32 bits, float         | refused             | if whole, in 0-255 | refused         |
| palette                            | its colours         | its indices        | its colours     |
| RGB, 8 bits                        | itself              | refused            | itself          |
| RGB, 16 bits                       | refused             | refused            | refused         |
| alpha, or a transparent colour     | if opaque           | grey if opaque     | if opaque       |
| CMYK, YCbCr                        | Pillow's formula    | refused            | refused         |
| LAB, HSV and others                | refused             | refused            | refused         |
| stored with loss (JPEG, ...)       | itself              | refused            | refused         |
| white stored as zero (PBM, TIFF)   | as it is shown      | refused            | as it is shown  |
| several frames or pages            | refused; MPO: first | refused            | refused         |
| EXIF orientation                   | where `upright`, pixels are turned as the tag says |  |

The formulas for CMYK and YCbCr know no colour profile; every common reader of these datasets uses
them. An MPO file is a JPEG photograph followed by previews, which are left out.

Whatever Pillow raises on a damaged file becomes a `DataError` with the file's name.

Axes: (H, W) pixels, height first.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from contextbench.data.base import DataError

RAW_VALUES = 256  # that a mask of indices can have
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP", "GIF")  # JPEG with MPO, PPM with PGM, PBM
IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
INDEX_MODES = ("1", "L", "LA", "P", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
COLOUR_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # more than 8 bits
TRANSPARENT_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
UPRIGHT = 1  # the EXIF orientation of pixels that are shown as they are stored

_WORD = 65535
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_METADATA = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")  # chunks of PNG that may hold an orientation
_WIDTH, _LENGTH, _BITS_PER_SAMPLE, _PHOTOMETRIC = 256, 257, 258, 262  # tags of TIFF

# EXIF orientation: what is done to the axes (height, width), in this order.
_SWAPPED = (5, 6, 7, 8)
_ROWS_REVERSED = (3, 4, 7, 8)
_COLUMNS_REVERSED = (2, 3, 6, 7)

_header_lock = Lock()  # filters of warnings belong to the process, not to a thread


class Header(NamedTuple):
    """What a file says of its pixels before they are decoded."""

    format: str
    mode: str  # Pillow's
    bits: int  # of a sample
    top: int  # the highest grey level that can be stored
    white_is_zero: bool
    lossy: bool
    frames: int
    transparent: bool  # whether some pixel may be
    orientation: int

    @property
    def levels(self) -> int:
        """The grey level that Pillow makes of `top`."""
        return _WORD if self.mode == "I" else 255


def read_image(path: Path, *, upright: bool = True) -> Tensor:
    """(3, H, W) uint8 RGB. `DataError` where the file is damaged or would be changed."""
    with _opened(path) as file:
        return _image(path, file, upright)


def image_of(picture: Image.Image, *, upright: bool = True) -> Tensor:
    """(3, H, W) uint8 RGB of a picture that Pillow holds, as `read_image` has it of its file.

    What Pillow has changed while it was decoded is not seen any more. Raises `DataError`.
    """
    path = Path(str(getattr(picture, "filename", "")) or "the picture")
    with _explained(path):
        return _image(path, picture, upright)


def read_indices(path: Path, *, upright: bool = False) -> NDArray[np.uint8]:
    """(H, W) raw values of an index mask, as they are stored. `DataError`, as for images."""
    with _opened(path) as file:
        header = _header(path, file)
        _check_tiff(path, file, upright)
        _check_mask(path, header, INDEX_MODES, "index masks of mode L or P are expected")
        if header.white_is_zero:
            raise DataError(f"{path}: stores white as zero; write the mask as PNG")
        if header.mode == "LA":
            _check_opaque(path, file.getchannel("A"))
            pixels = np.asarray(file.getchannel("L"))
        else:
            pixels = np.asarray(file)
        values = as_indices(_unstretched(pixels, header), path)
        return np.array(_turned(values, _orientation(file), upright))


def read_colours(path: Path, *, upright: bool = False) -> NDArray[np.uint8]:
    """(H, W, 3) raw colours of a mask. `DataError`, as for images."""
    with _opened(path) as file:
        header = _header(path, file)
        _check_tiff(path, file, upright)
        _check_mask(path, header, COLOUR_MODES, "colour masks of mode RGB are expected")
        colours = _opaque_rgb(path, file)
        _check_palette(path, file)
        return np.array(_turned(colours, _orientation(file), upright))


def picture_size(path: Path, *, upright: bool = True) -> tuple[int, int]:
    """(H, W) that `read_image` gives, from the header alone. `DataError` if unreadable."""
    with _opened(path) as file:
        tags = getattr(file, "tag_v2", {})  # of TIFF, whose size Pillow swaps, or not, by version
        height, width = tags.get(_LENGTH, file.height), tags.get(_WIDTH, file.width)
        swapped = upright and _stored_orientation(path, file) in _SWAPPED
    return (width, height) if swapped else (height, width)


def picture_header(path: Path) -> Header:
    """What a file says of its pixels. `DataError` if unreadable."""
    with _opened(path) as file:
        header = _header(path, file)
        return header._replace(orientation=_stored_orientation(path, file))


def palette_of(path: Path) -> list[tuple[int, int, int]]:
    """The colours of a palette file by index; empty for files without. `DataError`."""
    with _opened(path) as file:
        flat = file.getpalette("RGB") if file.mode == "P" else None
    flat = flat or []
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3)]


def as_indices(values: NDArray[np.generic], source: Path) -> NDArray[np.uint8]:
    """(H, W) whole numbers of any type as raw values; `DataError` for what does not fit one byte.

    MATLAB stores whole numbers as doubles readily, and other tools as 16 bits.
    """
    whole = whole_numbers(values, source, RAW_VALUES - 1)
    return whole.astype(np.uint8, copy=False)


def whole_numbers(
    values: NDArray[np.generic], source: Path, highest: int
) -> NDArray[np.integer[Any]]:
    """(H, W) numbers of any type as whole ones in 0 .. `highest`; else `DataError` names them."""
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise DataError(
            f"{source}: the mask is {values.dtype} of shape {list(values.shape)}; "
            "whole numbers of shape (height, width) are expected"
        )
    if values.dtype.kind == "b" or (values.dtype == np.uint8 and highest >= RAW_VALUES - 1):
        return values.astype(np.uint8, copy=False)
    with np.errstate(invalid="ignore"):  # of what is no number, which is found below
        indices = values.astype(np.int64)
    wrong = (indices != values) | (indices < 0) | (indices > highest)
    if wrong.any():
        raise DataError(
            f"{source}: label value(s) {np.unique(values[wrong])[:8].tolist()}; "
            f"whole numbers in 0-{highest} are expected"
        )
    return indices


def _image(path: Path, file: Image.Image, upright: bool) -> Tensor:
    _check_image(path, _header(path, file))
    _check_tiff(path, file, upright)
    pixels = _turned(_opaque_rgb(path, file), _orientation(file), upright)
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture of one of `FORMATS`, its pixels not decoded yet."""
    with _explained(path):
        with _quiet():
            file = Image.open(path, formats=FORMATS)
        with file:
            yield file


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever Pillow raises as a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        allowed = ", ".join(FORMATS)
        raise DataError(
            f"{path}: cannot be read as an image: it is damaged or none of {allowed}"
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {_too_large()}") from error
    except Exception as error:  # a parser of binary files raises anything on a damaged one
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: cannot be read as an image ({reason})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings, which do not name the file, of sizes and of damaged EXIF."""
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _too_large() -> str:
    highest = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
    return f"has more than {highest} million pixels, or says so; cut it into tiles"


def _header(path: Path, file: Image.Image) -> Header:
    """Of a file whose pixels are not decoded; the orientation is left for later."""
    tags = getattr(file, "tag_v2", None)  # TIFF has them
    with _quiet():
        frames = int(getattr(file, "n_frames", 1))
    raw_mode, maximum = _raw_mode(file)
    if tags is not None:
        samples = tags.get(_BITS_PER_SAMPLE, (1,))
        bits = max(samples) if isinstance(samples, tuple) else int(samples)
        white_is_zero = tags.get(_PHOTOMETRIC, 0) == 0
    else:
        bits, white_is_zero = _bits(raw_mode, file.mode), raw_mode == "1;I"
    return Header(
        format=file.format or "",
        mode=file.mode,
        bits=bits,
        top=maximum or 2 ** min(bits, 16) - 1,
        white_is_zero=white_is_zero,
        lossy=_lossy(path, file),
        frames=frames,
        transparent=_may_be_transparent(file),
        orientation=UPRIGHT,
    )


def _raw_mode(file: Image.Image) -> tuple[str, int]:
    """How samples are stored, such as "L;2" or "RGB;16B", and the highest of a PGM, else 0."""
    tiles = getattr(file, "tile", None)
    if not tiles:
        return file.mode, 0
    arguments = tiles[0][3]
    if not isinstance(arguments, tuple):
        return str(arguments), 0
    maximum = file.format == "PPM" and len(arguments) == 2 and isinstance(arguments[1], int)
    return str(arguments[0]), arguments[1] if maximum else 0


def _bits(raw_mode: str, mode: str) -> int:
    """Bits of a sample. "BGR;15" counts those of a pixel, whose samples have five or six."""
    match = re.fullmatch(r"(\w+);(\d+)\w*", raw_mode)
    if match is not None and not match[1].startswith("BGR"):
        return int(match[2])
    return 1 if mode == "1" else 32 if mode in ("I", "F") else 16 if mode in DEEP_MODES else 8


def _lossy(path: Path, file: Image.Image) -> bool:
    """Whether the format changes values. WebP without loss says so in its first chunk."""
    if file.format == "WEBP":
        if not path.is_file():  # opened from memory, and no mask then
            return True
        with path.open("rb") as stream:
            return stream.read(16)[12:] != b"VP8L"
    compression = str(file.info.get("compression", ""))
    return file.format in ("JPEG", "MPO") or (file.format == "TIFF" and compression in _LOSSY_TIFF)


def _may_be_transparent(file: Image.Image) -> bool:
    in_palette = file.palette is not None and file.palette.mode.endswith("A")
    return file.mode in TRANSPARENT_MODES or "transparency" in file.info or in_palette


def _check_image(path: Path, header: Header) -> None:
    if header.bits > 8 or header.mode in DEEP_MODES:
        raise DataError(
            f"{path}: has {header.bits} bits a sample (mode {header.mode}), images have 8; which "
            "range of values to keep is for you to choose: write 8-bit files with the same range "
            "for all of them"
        )
    if header.mode not in IMAGE_MODES:
        raise DataError(f"{path}: images of mode {header.mode} are not read; write it as RGB")
    if header.format != "MPO":
        _check_one(path, header)


def _check_mask(path: Path, header: Header, modes: tuple[str, ...], expected: str) -> None:
    deep = header.bits > 8 and header.mode not in DEEP_MODES
    if header.lossy:
        raise DataError(
            f"{path}: is a mask stored with loss ({header.format}), which changes labels; make it "
            "again as PNG"
        )
    if header.mode not in modes or deep:
        bits = f" with {header.bits} bits a sample" if deep else ""
        raise DataError(f"{path}: mask has mode {header.mode}{bits}; {expected}")
    _check_one(path, header)


def _check_one(path: Path, header: Header) -> None:
    if header.frames > 1:
        raise DataError(
            f"{path}: holds {header.frames} frames or pages; save the one that is meant by itself"
        )


def _check_tiff(path: Path, file: Image.Image, upright: bool) -> None:
    """Pillow turns TIFF, and nothing else, by itself."""
    tags = getattr(file, "tag_v2", {})
    if not upright and tags.get(ExifTags.Base.Orientation, UPRIGHT) != UPRIGHT:
        raise DataError(f"{path}: is a TIFF with an orientation, which cannot be left out here")


def _check_opaque(path: Path, alpha: Image.Image) -> None:
    lowest = np.asarray(alpha).min(initial=255)
    if lowest < 255:
        raise DataError(
            f"{path}: has transparent pixels (alpha {lowest} of 255), whose colour is what they "
            "are shown on; put it on a background and save it without alpha"
        )


def _check_palette(path: Path, file: Image.Image) -> None:
    """Pixels beyond the palette have no colour; Pillow takes them for black."""
    if file.mode != "P" or file.palette is None:
        return
    entries = len(file.palette.palette) // max(len(file.palette.mode), 1)
    highest = int(np.asarray(file).max(initial=0))
    if highest >= entries:
        raise DataError(f"{path}: pixel value {highest}, but a palette of {entries} colours")


def _opaque_rgb(path: Path, file: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) colours of an image without a transparent pixel."""
    if _may_be_transparent(file):
        file = file.convert("RGBA")
        _check_opaque(path, file.getchannel("A"))
    return np.asarray(file if file.mode == "RGB" else file.convert("RGB"))


def _unstretched(pixels: NDArray[np.generic], header: Header) -> NDArray[np.generic]:
    """Grey levels as stored, which Pillow maps onto 0 .. 255 or 65535: v -> round(v full / top).

    The way back rounds to v again, since rounding moved it by top / full / 2 < 1/2 at most.
    """
    if header.mode not in ("L", "I") or header.top >= header.levels:
        return pixels
    if header.mode == "I" and header.format != "PPM":
        return pixels
    return np.rint(pixels.astype(np.float64) * header.top / header.levels).astype(np.int64)


def _turned(pixels: NDArray[Any], orientation: int, upright: bool) -> NDArray[Any]:
    """(H, W, ...) pixels as a viewer shows them, or as they are."""
    if not upright or orientation == UPRIGHT:
        return pixels
    if orientation in _SWAPPED:
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in _ROWS_REVERSED else None)
    columns = slice(None, None, -1 if orientation in _COLUMNS_REVERSED else None)
    return pixels[rows, columns]


def _orientation(file: Image.Image) -> int:
    """Of decoded pixels: 1 .. 8, 1 where there is none, it is damaged, or Pillow has applied it."""
    try:
        with _quiet():
            value = Image.Image.getexif(file).get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # damaged EXIF is none: pixels are not in it
        return UPRIGHT
    return value if value in range(1, 9) else UPRIGHT


def _stored_orientation(path: Path, file: Image.Image) -> int:
    """The same before decoding. Pillow finds what a PNG has behind its pixels with them only."""
    if file.format == "PNG" and "exif" not in file.info and _metadata_last(path):
        file.load()
    return _orientation(file)


def _metadata_last(path: Path) -> bool:
    """Whether a PNG has metadata behind its pixels."""
    pixels = False
    with path.open("rb") as stream:
        stream.seek(8)  # the signature
        while len(head := stream.read(8)) == 8:
            pixels |= head[4:] == b"IDAT"
            if pixels and head[4:] in _METADATA:
                return True
            stream.seek(int.from_bytes(head[:4], "big") + 4, 1)  # content and checksum
    return False
