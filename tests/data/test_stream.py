"""Item k is the same whatever was drawn before it: the basis of exact resuming."""

import pytest
import torch
from torch import Generator, Tensor
from torch._utils import ExceptionWrapper

from contextbench.data.base import DataError, Sample
from contextbench.data.probe import LABELS
from contextbench.data.stream import PREFETCH, TrainStream, train_loader


class Numbered:
    """Image i is filled with i."""

    labels = LABELS

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Sample:
        image = torch.full((3, 2, 2), index, dtype=torch.uint8)
        return Sample(str(index), image, image[0].clone())

    def fingerprint(self) -> str:
        return "numbered"


def with_noise(image: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return image + torch.rand((), generator=generator, dtype=torch.float64).float(), labels


def stream(*, seed: int = 0, length: int = 28) -> TrainStream:
    return TrainStream(Numbered(), with_noise, seed=seed, length=length)


def test_every_epoch_shows_every_image_once_in_its_own_order() -> None:
    shown = [stream().image_index(item) for item in range(28)]
    epochs = [tuple(shown[start : start + 7]) for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_items_do_not_depend_on_what_was_drawn_before() -> None:
    forward, backward = stream(), stream()
    ahead = [forward[item] for item in range(28)]
    behind = [backward[item] for item in reversed(range(28))][::-1]
    for (image, labels), (same_image, same_labels) in zip(ahead, behind, strict=True):
        assert torch.equal(image, same_image)
        assert torch.equal(labels, same_labels)


def test_augmentation_differs_between_items_and_between_seeds() -> None:
    def noise(source: TrainStream) -> list[float]:
        return [float(source[k][0][0, 0, 0]) - source.image_index(k) for k in range(28)]

    first, other = noise(stream()), noise(stream(seed=1))
    assert len(set(first)) == 28
    assert not set(first) & set(other)
    orders = [[stream(seed=seed).image_index(k) for k in range(7)] for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_labels_stay_bytes() -> None:
    """What workers hand over is then a third less than with the int64 of the losses."""
    image, labels = stream()[3]
    assert image.dtype == torch.float32
    assert labels.dtype == torch.uint8


def test_an_item_is_what_reading_and_augmenting_it_give() -> None:
    source = stream()
    image, labels = source.augment(9, source.read(9))
    assert torch.equal(image, source[9][0])
    assert torch.equal(labels, source[9][1])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_no_batch(workers: int) -> None:
    """In number, order and content, across epochs and with a smaller last batch."""
    alone, shared = (
        list(train_loader(stream(length=26), batch=4, start_step=1, workers=number))
        for number in (0, workers)
    )
    assert [len(images) for images, _ in alone] == [4] * 5 + [2]
    for (images, labels), (same_images, same_labels) in zip(alone, shared, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


def test_items_are_made_in_one_thread_as_in_a_worker() -> None:
    """The mean in a change of contrast, say, has other last bits with another number of threads."""
    seen, before = [], torch.get_num_threads()

    def noting(image: Tensor, labels: Tensor, _generator: Generator) -> tuple[Tensor, Tensor]:
        seen.append(torch.get_num_threads())
        return image, labels

    try:
        torch.set_num_threads(2)
        _ = TrainStream(Numbered(), noting, seed=0, length=1)[0]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


def test_workers_are_started_once_and_kept_ahead() -> None:
    loader = train_loader(stream(), batch=4, start_step=0, workers=2)
    assert (loader.num_workers, loader.prefetch_factor) == (2, PREFETCH)
    assert not loader.pin_memory  # unless asked for: it needs a GPU


@pytest.mark.parametrize("by_worker", [False, True])
def test_a_fault_reads_the_same_from_a_worker(by_worker: bool) -> None:
    """The message names the file and the value; a worker's traceback is not part of it.

    What a worker hands over is raised here as torch does in the process that trains.
    """

    class Faulty(Numbered):
        def __getitem__(self, index: int) -> Sample:
            try:
                raise DataError(f"{index}.png: undeclared\nvalue 9")
            except DataError:
                if by_worker:
                    ExceptionWrapper(where="in DataLoader worker process 0").reraise()
                raise

    source = TrainStream(Faulty(), with_noise, seed=0, length=4)
    with pytest.raises(DataError, match=r"^\d+\.png: undeclared\nvalue 9$"):
        next(iter(train_loader(source, batch=4, start_step=0, workers=0)))


def test_an_item_past_the_end_is_an_index_error() -> None:
    with pytest.raises(IndexError, match=r"0 \.\. 27"):
        stream()[28]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_started_later_goes_on_where_the_other_one_was(workers: int) -> None:
    whole = list(train_loader(stream(), batch=4, start_step=0, workers=0))
    rest = list(train_loader(stream(), batch=4, start_step=5, workers=workers))
    assert len(whole) == 7
    assert len(rest) == 2
    for (image, labels), (same_image, same_labels) in zip(whole[5:], rest, strict=True):
        assert torch.equal(image, same_image)
        assert torch.equal(labels, same_labels)


def test_a_finished_stream_yields_nothing() -> None:
    assert list(train_loader(stream(), batch=4, start_step=7, workers=0)) == []


def test_loading_leaves_the_global_generator_alone() -> None:
    """Otherwise dropout after a resume would differ from an uninterrupted run."""
    before = torch.get_rng_state()
    list(train_loader(stream(), batch=4, start_step=0, workers=0))
    assert torch.equal(torch.get_rng_state(), before)
