"""The endless, exactly resumable sequence of training items.

Item number k fixes the image and its augmentation: nothing depends on what was drawn before, on
the number of workers, or on where a run was interrupted.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from contextbench.config.training import TrainConfig
from contextbench.data.ahead import PREFETCH, ahead, one_thread, own_errors
from contextbench.data.base import Sample, SegmentationDataset
from contextbench.data.transforms import TrainTransform

Transform = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]


class TrainStream(Dataset[tuple[Tensor, Tensor]]):
    """`length` augmented items: every epoch a new permutation of `dataset`, one after another.

    With D images, item k belongs to epoch e = k // D and shows image permutation(seed, e)[k % D],
    augmented from a generator that (seed, k) alone determines.
    """

    def __init__(
        self, dataset: SegmentationDataset, transform: Transform, *, seed: int, length: int
    ) -> None:
        self.dataset, self.transform, self.seed, self.length = dataset, transform, seed, length
        self._epoch = -1
        self._order: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        """(3, h, w) float32 normalised image and (h, w) uint8 labels.

        Labels stay bytes until they are on the device: what workers hand over, and what is copied,
        is a third less than with int64.
        """
        with one_thread():
            return self.augment(item, self.read(item))

    def read(self, item: int) -> Sample:
        """The first half of the work: the image of an item as it is in the dataset."""
        if not 0 <= item < self.length:
            raise IndexError(f"item {item} is outside 0 .. {self.length - 1}")
        return self.dataset[self.image_index(item)]

    def augment(self, item: int, sample: Sample) -> tuple[Tensor, Tensor]:
        """The second half."""
        generator = _generator(self.seed, "augmentation", item)
        return self.transform(sample.image, sample.labels, generator)

    def image_index(self, item: int) -> int:
        """Which image of the dataset item `item` shows."""
        epoch, position = divmod(item, len(self.dataset))
        if epoch != self._epoch:
            generator = _generator(self.seed, "order", epoch)
            self._order = torch.randperm(len(self.dataset), generator=generator).tolist()
            self._epoch = epoch
        return self._order[position]


class _Loader(DataLoader[tuple[Tensor, Tensor]]):
    """Without workers a thread draws ahead. A fault of the data reads the same from either."""

    def __iter__(self) -> Any:
        batches = own_errors(super().__iter__())
        return batches if self.num_workers else ahead(batches)


def train_loader(
    stream: TrainStream,
    *,
    batch: int,
    start_step: int,
    workers: int,
    pin_memory: bool = False,
    rank: int = 0,
    processes: int = 1,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of `stream` from step `start_step` on, in order; the last one may be smaller.

    Of several processes, which divide `batch`, that of `rank` r gets the items r, r + processes,
    ... of each batch, and so of each part of it that they divide: together they get the same items
    as one process does.

    `workers` processes load so many batches at once and `PREFETCH` each ahead; without, a thread is
    one batch ahead. The one pass lasts until training ends, so workers are started
    once and there is nothing to keep alive between epochs. `pin_memory` lets a copy to a GPU go on
    while the process does other things; it needs a GPU.
    """
    return _Loader(
        stream,
        batch_size=batch // processes,
        sampler=range(start_step * batch + rank, len(stream), processes),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin_memory,
        # Starting an iterator draws a number. Taken from the global generator, as by default, it
        # would make a resumed run differ from an uninterrupted one in everything drawn later.
        generator=Generator().manual_seed(0),
    )


def _generator(seed: int, purpose: str, number: int) -> Generator:
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)  # 63 bits, signed


def train_stream(config: TrainConfig, dataset: SegmentationDataset, *, seed: int) -> TrainStream:
    """All items that training sees, augmented as `config` says."""
    transform = TrainTransform(
        crop=config.crop,
        scale=config.scale,
        flip=config.flip,
        jitter=config.jitter,
        swap=dataset.labels.swap,
        rotate=config.rotate,
        aspect=config.aspect,
        max_class_share=config.max_class_share,
    )
    return TrainStream(dataset, transform, seed=seed, length=config.steps * config.batch)
