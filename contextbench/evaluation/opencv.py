"""Bilinear resizing of bytes as OpenCV's `INTER_LINEAR` computes it, in whole numbers.

Code bases that read images with OpenCV test on images that it resized, whose bytes differ by one
from those of an exact computation here and there, and do not average where sides shrink. With
weights in units of 1 / 2048, v in rows and u in columns:

    r_y = u_0 x_(y, i) + u_1 x_(y, i + 1)
    out = ((v_0 (r_j >> 4) >> 16) + (v_1 (r_(j+1) >> 4) >> 16) + 2) >> 2

Where both sides shrink by exactly 2 it takes the mean of four bytes instead.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

UNIT = 2048
IntArray = npt.NDArray[np.int64]


def resized_bytes(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (N, C, H, W) uint8 at another height and width."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    x = images.cpu().numpy().astype(np.int64)
    if (height, width) == (2 * size[0], 2 * size[1]):
        four = x.reshape(*x.shape[:2], size[0], 2, size[1], 2).sum(axis=(3, 5))
        return torch.from_numpy((four + 2 >> 2).astype(np.uint8)).to(images.device)
    left, right, u0, u1 = _taps(width, size[1], clipped=True)
    above, below, v0, v1 = (each for each in _taps(height, size[0], clipped=False))
    rows = (x[..., left] * u0 + x[..., right] * u1) >> 4
    first = (rows[..., above, :] * v0[:, None]) >> 16
    second = (rows[..., below, :] * v1[:, None]) >> 16
    out = (first + second + 2 >> 2).astype(np.uint8)
    return torch.from_numpy(out).to(images.device)


def _taps(
    source: int, target: int, *, clipped: bool
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """First and second place that each resulting one takes, and their weights in `UNIT`.

    Positions are float32. `clipped`: beyond the outer centres the outer place alone counts.
    """
    scale = 1.0 / (target / source)
    position = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    share = position - first.astype(np.float32)
    if clipped:
        share = np.where((first < 0) | (first >= source - 1), np.float32(0), share)
    weights = [np.rint(each * np.float32(UNIT)).astype(np.int64) for each in (1 - share, share)]
    return (
        np.clip(first, 0, source - 1),
        np.clip(first + 1, 0, source - 1),
        weights[0],
        weights[1],
    )
