"""Weights of classes for the loss, from the labels of the training split, counted once."""

import math
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor

from contextbench.config.files import ConfigError, validated
from contextbench.config.frozen import Frozen
from contextbench.config.training import ClassWeighting
from contextbench.data.base import SegmentationDataset
from contextbench.records.stored import Count
from contextbench.system.files import quarantine, write_json
from contextbench.system.reading import exists, read_json

ENET_OFFSET = 1.02  # the constant c of Paszke et al., which bounds the weights by 50


class ClassPixels(Frozen):
    """Labelled pixels of a split; both lists have one number a class."""

    dataset_fingerprint: str
    pixels: list[Count]
    image_pixels: list[Count]  # labelled pixels of the images that the class occurs in

    @model_validator(mode="after")
    def _possible(self) -> Self:
        pairs = zip(self.pixels, self.image_pixels, strict=True)
        if any(pixels > total for pixels, total in pairs):
            raise ValueError("no images have these numbers of pixels")
        return self


def counted(
    dataset: SegmentationDataset,
    fingerprint: str,
    path: Path,
    progress: Callable[[int], None],
) -> ClassPixels:
    """Counts over all images of `dataset`, from `path` where it holds those of `fingerprint`."""
    stored, classes = _stored(path), len(dataset.labels.classes)
    if stored is not None and stored.dataset_fingerprint == fingerprint:
        if len(stored.pixels) == classes:
            return stored
        quarantine(path, f"is of {len(stored.pixels)} classes, not of {classes}")
    pixels, image_pixels = (torch.zeros(classes, dtype=torch.int64) for _ in range(2))
    for index in range(len(dataset)):
        labels = dataset[index].labels
        each = torch.bincount(labels.flatten().long(), minlength=classes)[:classes]
        pixels += each
        image_pixels += torch.where(each > 0, each.sum(), 0)
        progress(index + 1)
    counts = ClassPixels(
        dataset_fingerprint=fingerprint,
        pixels=pixels.tolist(),
        image_pixels=image_pixels.tolist(),
    )
    write_json(path, counts.model_dump())
    return counts


def class_weights(
    weighting: ClassWeighting | tuple[float, ...], counts: Callable[[], ClassPixels], classes: int
) -> Tensor:
    """One weight a class, (K,) float32; `counts` is called only where weights depend on them.

    median_frequency: w_k = median_j(f_j) / f_k with f_k the share of class k in the labelled pixels
    of the images that it occurs in. Eigen and Fergus, ICCV 2015, arXiv:1411.4734, section 6.3.2.
    inverse_log: w_k = 1 / ln(1.02 + p_k), p_k the share in all labelled pixels. Paszke et al.,
    arXiv:1606.02147 (ENet), section 5.1. A class that never occurs gets 0 from the first, which has
    no frequency for it, and no loss term is scaled by either.
    Raises `ConfigError` unless listed weights are one a class, and where there is nothing to count.
    """
    if isinstance(weighting, tuple):
        if len(weighting) != classes:
            raise ConfigError(
                f"train.loss.class_weights lists {len(weighting)} weights for {classes} classes"
            )
        return torch.tensor(weighting)
    formulas = {"median_frequency": _median_frequency, "inverse_log": _inverse_log}
    found = counts()
    if not any(found.pixels):
        raise ConfigError(
            f"train.loss.class_weights {weighting}: no pixel of the split is labelled"
        )
    return torch.tensor(formulas[weighting](found))


def _median_frequency(counts: ClassPixels) -> list[float]:
    pairs = zip(counts.pixels, counts.image_pixels, strict=True)
    shares = [pixels / total if total else 0.0 for pixels, total in pairs]
    middle = median(share for share in shares if share > 0)
    return [middle / share if share else 0.0 for share in shares]


def _inverse_log(counts: ClassPixels) -> list[float]:
    total = sum(counts.pixels)
    return [1 / math.log(ENET_OFFSET + pixels / total) for pixels in counts.pixels]


def _stored(path: Path) -> ClassPixels | None:
    if not exists(path):
        return None
    try:
        return validated(ClassPixels, read_json(path), str(path))
    except (OSError, ValueError) as error:  # a `ConfigError` is one too
        quarantine(path, error)
        return None
