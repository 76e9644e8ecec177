"""Pictures of the report page as data URIs: photographs as JPEG, maps of few colours as PNG."""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from contextbench.records.examples import ByteArray
from contextbench.report.attention import OPAQUE
from contextbench.report.looks import RED

FloatMap = npt.NDArray[np.float32]

LONGEST = 400  # pixels of the longer side of what is shown
QUALITY = 85  # of JPEG
SHADES = 128  # of a map of numbers


def photograph(pixels: ByteArray) -> str:
    """(H, W, 3) pixels, made smaller where needed."""
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX)
    return _uri(image, "jpeg", quality=QUALITY, subsampling=0, optimize=True)


def colours(pixels: ByteArray) -> str:
    """(H, W, 3) pixels of at most 256 different colours, exactly."""
    small = _smaller(pixels)
    codes = small @ np.array([1 << 16, 1 << 8, 1], dtype=np.int64)  # sorts faster than rows do
    found, indices = np.unique(codes, return_inverse=True)
    palette = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1).astype(np.uint8)
    return _indexed(indices.reshape(codes.shape).astype(np.uint8), palette)


def glow(values: FloatMap) -> str:
    """(h, w) numbers from 0 to 1 as opacities of one colour, to lie over a photograph.

    One pixel a number: whoever shows it larger decides how.
    """
    shades = np.round(values * (SHADES - 1)).astype(np.uint8)
    opacities = np.round(np.linspace(0, 255 * OPAQUE, SHADES)).astype(np.uint8)
    palette = np.tile(np.frombuffer(bytes.fromhex(RED[1:]), dtype=np.uint8), (SHADES, 1))
    return _indexed(shades, palette, transparency=opacities.tobytes())


def _smaller(pixels: ByteArray) -> ByteArray:
    """Every n-th pixel, from the middle of the first n: classes cannot be averaged."""
    step = -(-max(pixels.shape[:2]) // LONGEST)
    return pixels[step // 2 :: step, step // 2 :: step]


def _indexed(indices: ByteArray, palette: ByteArray, **options: object) -> str:
    image = Image.fromarray(np.ascontiguousarray(indices), mode="P")
    image.putpalette(palette.tobytes())
    return _uri(image, "png", optimize=True, **options)


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
