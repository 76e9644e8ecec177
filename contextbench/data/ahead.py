"""What is made while something else is worked on: the next batch, the next image.

A thread shares all memory with the work that it goes beside, so that nothing is copied and no room
is needed in /dev/shm. Decoding pictures and the operators of torch let other threads run meanwhile.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Generator
from torch.utils.data import DataLoader

from contextbench.data.base import DataError

PREFETCH = 2  # items that each worker process is ahead

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Indexed(Protocol[T_co]):
    """What is read by index."""

    def __getitem__(self, index: int, /) -> T_co: ...


def ahead(items: Iterable[T]) -> Iterator[T]:
    """`items` in order, each made in one thread while the one before it is used.

    An error is raised where its item would have come. Closed early, it waits for the item that is
    being made, and makes no other.
    """
    end = object()
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = iter(items)
        item: Any = thread.submit(next, coming, end)
        while (made := item.result()) is not end:
            item = thread.submit(next, coming, end)
            yield made


def read_ahead(source: Indexed[T], indices: Sequence[int], workers: int = 0) -> Iterator[T]:
    """`source[index]` for all `indices` in order, read while the one before is used.

    By so many `workers`, processes that are `PREFETCH` items ahead each; without, by a thread. A
    `DataError` reads the same from all of them. What cannot be pickled is read without workers, or
    where processes are forked.
    """
    if not workers:
        return ahead(_one_by_one(source, indices))
    loader: DataLoader[T] = DataLoader(
        source,  # type: ignore[arg-type]  # never asked for its length
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        prefetch_factor=PREFETCH,
        collate_fn=_as_it_is,
        generator=Generator().manual_seed(0),  # the global one stays as it is
    )
    return own_errors(loader)


def own_errors(items: Iterable[T]) -> Iterator[T]:
    """`items`; an error of a worker arrives as a traceback in text, which ends with its message."""
    try:
        yield from items
    except DataError as error:
        message = str(error).rpartition(f"{DataError.__name__}: ")[2]
        raise DataError(message.strip()) from error


@contextmanager
def iterating(items: Iterable[T]) -> Iterator[Iterator[T]]:
    """An iterator over `items`, closed at the end: the thread or the workers behind it end too."""
    coming = iter(items)
    try:
        yield coming
    finally:
        close = getattr(coming, "close", None)
        if close is not None:
            close()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread, as in every worker: a float sum depends on how many share it.

    Images are too small to gain from more, and lose much where other work wants the cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_by_one(source: Indexed[T], indices: Iterable[int]) -> Iterator[T]:
    for index in indices:
        with one_thread():
            item = source[index]
        yield item


def _as_it_is(item: T) -> T:
    return item
