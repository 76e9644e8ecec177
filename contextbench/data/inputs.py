"""An image as a program hands it over: a file, a picture of Pillow, an array or a tensor.

Axes: (H, W) pixels, height first.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from contextbench.data.base import DataError
from contextbench.data.pictures import image_of, read_image

GivenImage = str | Path | Image.Image | NDArray[np.uint8] | Tensor

ALLOWED = (
    "allowed are the path of an image file, a Pillow image, a numpy array (height, width, 3) of "
    "uint8 and a torch tensor (3, height, width) of uint8, each RGB with values from 0 to 255"
)


def pixels_of(image: GivenImage) -> Tensor:
    """(3, H, W) uint8 RGB, a copy but for a tensor. Raises `DataError` for anything else.

    Nothing is guessed: values from 0 to 1, other orders of axes and grey arrays are refused.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return image_of(image)
    if isinstance(image, np.ndarray):
        _check(image, "an array", str(image.dtype) == "uint8", image.shape[-1:])
        return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
    if isinstance(image, Tensor):
        _check(image, "a tensor", image.dtype == torch.uint8, image.shape[:1])
        return image.detach()
    raise DataError(f"the image is of type {type(image).__name__}; {ALLOWED}")


def name_of(image: GivenImage) -> str:
    """What messages and maps call an image: its file's name, if it has one."""
    path = image if isinstance(image, str | Path) else getattr(image, "filename", "")
    return Path(str(path)).name or "the image"


def _check(
    image: NDArray[np.uint8] | Tensor, kind: str, bytes_: bool, colours: tuple[int, ...]
) -> None:
    if not (bytes_ and len(image.shape) == 3 and colours == (3,) and 0 not in image.shape):
        shape = tuple(image.shape)
        dtype = str(image.dtype).removeprefix("torch.")
        raise DataError(f"the image is {kind} {shape} of {dtype}; {ALLOWED}")
