"""Images made worse in four ways of five strengths, each by itself, before a model sees them.

Kinds and strengths are those of Hendrycks and Dietterich (Benchmarking neural network robustness,
ICLR 2019, arXiv:1903.12261) for ImageNet-C, which Kamann and Rother (CVPR 2020, arXiv:1908.05005)
took over for segmentation. Ours: noise is drawn from the image's name, so that it is the same in
every order, process and view of the image, and all kinds act on pixels of 0 .. 255.

    noise       normal deviates times a share of the range, added to every value
    blur        Gaussian weights of so many pixels' deviation, edges repeated
    brightness  a share of the range added to the value (of hue, saturation, value), at most its end
    jpeg        compressed with this quality, 0 .. 100, and read again

Axes: (H, W) image pixels, height first.
"""

import hashlib
import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from contextbench.config.evaluation import CorruptConfig

STRENGTHS: dict[str, tuple[float, ...]] = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "blur": (1, 2, 3, 4, 6),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "jpeg": (25, 18, 15, 10, 7),
}
REACH = 4  # deviations beyond which weights of a blur are taken as zero


def corrupted(image: Tensor, config: CorruptConfig | None, name: str) -> Tensor:
    """The image (3, H, W) uint8 made worse, the same each time for the same `name`."""
    if config is None:
        return image
    return _KINDS[config.kind](image, STRENGTHS[config.kind][config.strength - 1], name)


def _noise(image: Tensor, share: float, name: str) -> Tensor:
    key = hashlib.sha256(name.encode(errors="surrogatepass")).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "little")))
    deviates = torch.from_numpy(generator.standard_normal(image.shape, dtype=np.float32))
    return _whole(image.float() + 255 * share * deviates)


def _blur(image: Tensor, deviation: float, _name: str) -> Tensor:
    reach = math.ceil(REACH * deviation)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2)
    weights = weights / weights.sum()
    tall = _weighted(F.pad(image.float(), (0, 0, reach, reach), "replicate"), weights, 1)
    return _whole(_weighted(F.pad(tall, (reach, reach, 0, 0), "replicate"), weights, 2))


def _weighted(pixels: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Sums of neighbours along a side, one shifted copy at a time."""
    kept = pixels.shape[dim] - len(weights) + 1
    total = torch.zeros_like(pixels.narrow(dim, 0, kept))
    for place, weight in enumerate(weights.tolist()):
        total.add_(pixels.narrow(dim, place, kept), alpha=weight)
    return total


def _brightness(image: Tensor, share: float, _name: str) -> Tensor:
    """Hue and saturation stay where all channels grow by one factor; black has neither."""
    pixels = image.float()
    value = pixels.amax(dim=0)
    brighter = (value + 255 * share).clamp(max=255)
    return _whole(torch.where(value > 0, pixels * (brighter / value.clamp(min=1)), brighter))


def _jpeg(image: Tensor, quality: float, _name: str) -> Tensor:
    content = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(content, "JPEG", quality=int(quality))
    with Image.open(content) as picture:
        pixels: NDArray[np.uint8] = np.array(picture.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _whole(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8)


_KINDS: dict[str, Callable[[Tensor, float, str], Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "brightness": _brightness,
    "jpeg": _jpeg,
}
