"""Image files to time the loading of: drawn, since the real ones are not at hand.

What decoding costs depends on how well an image compresses, so these are neither flat nor noise.
Regions of one colour with curved borders, as objects have, are shaded by a texture whose amplitude
falls with frequency like f^-1.5, the smooth side of natural images, and covered by sensor noise of
half a grey level. As PNG of 1024 x 2048 that takes about 2.3 MB; those of Cityscapes take 2.2 MB on
average (5,000 in 11 GB). Masks have the same regions.

Axes: (H, W) image pixels, height first.
"""

import hashlib
from pathlib import Path

import torch
from PIL import Image
from torch import Generator, Tensor

from contextbench.data.base import IGNORE, LabelSet, Sample
from contextbench.data.labels import LabelTable, read_pair

IMAGES = 8
REGIONS = 60  # of an image
IGNORED = 6  # of them
SHADING = 20.0  # grey levels, standard deviation
NOISE = 0.5
BEND = 0.06  # of borders, standard deviation over the height

# The images of these datasets are PNG; the others hold photographs as JPEG.
PNG_DATASETS = frozenset({"cityscapes", "camvid"})
JPEG_QUALITY = 90


class GeneratedDataset:
    """Files below `folder`, which are written here: images of `size` and masks with all classes."""

    def __init__(
        self, folder: Path, labels: LabelSet, size: tuple[int, int], *, suffix: str = ".png"
    ) -> None:
        classes = len(labels.classes)
        self.folder, self.labels, self.size, self.suffix = folder, labels, size, suffix
        self.table = LabelTable({k: k for k in range(classes)}, ignored=(IGNORE,))
        for index in range(IMAGES):
            image, mask = _drawn(size, classes, Generator().manual_seed(index))
            image_path, mask_path = self._paths(index)
            Image.fromarray(image.numpy()).save(image_path, quality=JPEG_QUALITY)
            Image.fromarray(mask.numpy()).save(mask_path)

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> Sample:
        return read_pair(str(index), *self._paths(index), self.table)

    def image_size(self, _index: int) -> tuple[int, int]:
        return self.size

    def fingerprint(self) -> str:
        content = f"generated {self.size} {self.suffix} {self.labels.classes}"
        return hashlib.sha256(content.encode()).hexdigest()

    def _paths(self, index: int) -> tuple[Path, Path]:
        return self.folder / f"{index}{self.suffix}", self.folder / f"{index}-mask.png"


def _drawn(size: tuple[int, int], classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """(H, W, 3) image and (H, W) train ids, both uint8."""
    regions = _regions(size, generator)
    colours = 40 + 170 * torch.rand(REGIONS, 3, generator=generator)
    shading = SHADING * _smooth(size, 1.5, generator)[..., None]
    noise = NOISE * torch.randn(*size, 3, generator=generator)
    image = (colours[regions] + shading + noise).clamp(0, 255).to(torch.uint8)
    ids = torch.randint(classes, (REGIONS,), generator=generator)
    ids[:IGNORED] = IGNORE
    return image, ids[regions].to(torch.uint8)


def _regions(size: tuple[int, int], generator: Generator) -> Tensor:
    """(H, W) number of the nearest of some points, seen from a place that wanders smoothly."""
    height, width = size
    bend = BEND * height
    y = torch.arange(height)[:, None] + bend * _smooth(size, 2.5, generator)
    x = torch.arange(width) + bend * _smooth(size, 2.5, generator)
    points = torch.rand(REGIONS, 2, generator=generator) * torch.tensor(size)
    nearest, regions = torch.full(size, torch.inf), torch.zeros(size, dtype=torch.int64)
    for number, (row, column) in enumerate(points):
        distance = (y - row) ** 2 + (x - column) ** 2
        regions.masked_fill_(distance < nearest, number)
        torch.minimum(nearest, distance, out=nearest)
    return regions


def _smooth(size: tuple[int, int], power: float, generator: Generator) -> Tensor:
    """(H, W) random field of mean 0 and deviation 1 with amplitudes f^-power."""
    height, width = size
    rows = torch.fft.fftfreq(height)[:, None] * height
    columns = torch.fft.rfftfreq(width) * width
    frequency = (rows**2 + columns**2).sqrt().clamp(min=1)
    noise = torch.fft.rfft2(torch.randn(size, generator=generator))
    field: Tensor = torch.fft.irfft2(noise / frequency**power, s=size)
    return (field - field.mean()) / field.std()
