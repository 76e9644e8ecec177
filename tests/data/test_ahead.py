"""What is read ahead is what is read when asked for, in order, and errors keep their place."""

import threading
from collections.abc import Iterator

import pytest
import torch

from contextbench.data.ahead import ahead, iterating, one_thread, read_ahead
from contextbench.data.base import DataError

PATIENCE = 60.0  # seconds until an event that never comes is missed


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


class Squares:
    """Numbers by index; number `broken` cannot be read."""

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken

    def __getitem__(self, index: int) -> tuple[int, int]:
        if index == self.broken:
            raise DataError(f"{index}.png: cannot be read\nat all")
        return index * index, torch.get_num_threads()


@pytest.mark.parametrize("workers", [0, 2])
def test_items_come_in_order_and_are_read_in_one_thread(workers: int) -> None:
    with iterating(read_ahead(Squares(), [5, 3, 4], workers)) as items:
        assert list(items) == [(25, 1), (9, 1), (16, 1)]
    assert threads() == []


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_comes_in_its_place_with_its_own_words(workers: int) -> None:
    with iterating(read_ahead(Squares(broken=2), range(4), workers)) as items:
        assert [next(items)[0], next(items)[0]] == [0, 1]
        with pytest.raises(DataError, match=r"^2\.png: cannot be read\nat all$"):
            next(items)


def test_the_next_item_is_made_while_the_last_one_is_used() -> None:
    """Whoever uses the first item waits here until the second is being made."""
    begun = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        begun.set()
        yield 2

    coming = ahead(items())
    assert next(coming) == 1
    assert begun.wait(PATIENCE)
    assert list(coming) == [2]


def test_what_is_left_early_makes_one_item_more_and_ends_its_thread() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(9):
            made.append(number)
            yield number

    with iterating(ahead(items())) as coming:
        next(coming)
    assert made == [0, 1]
    assert threads() == []


def test_nothing_is_ahead_of_what_is_empty() -> None:
    assert list(ahead(())) == []
    assert list(read_ahead(Squares(), ())) == []


def test_threads_are_as_they_were_after_one_thread() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        list(read_ahead(Squares(), range(3)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generator_stays_where_it_is(workers: int) -> None:
    before = torch.get_rng_state()
    list(read_ahead(Squares(), range(2), workers))
    assert torch.equal(torch.get_rng_state(), before)
