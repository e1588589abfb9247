"""Prefetch keeps items and their order and prepares a fixed number of items in advance."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from training.data.prefetch import DEPTH, Prefetch


def test_items_and_an_exception_come_in_the_order_of_the_source() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("away")

    items = iter(Prefetch(failing()))
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="away"):
        next(items)
    assert list(Prefetch(iter([]))) == [] and list(Prefetch(iter([None, 3]))) == [None, 3]


def test_the_next_items_are_prepared_while_one_is_used() -> None:
    prepared: list[int] = []

    def counted() -> Iterator[int]:
        for number in range(10):
            prepared.append(number)
            yield number

    items = iter(Prefetch(counted()))
    assert next(items) == 0
    deadline = time.monotonic() + 10
    while len(prepared) < 1 + DEPTH and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert prepared == list(range(1 + DEPTH))
    items.close()  # type: ignore[attr-defined]


def test_items_are_prepared_with_one_thread_and_the_consumer_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        counts = iter(torch.get_num_threads, None)
        assert [next(iter(Prefetch(counts))) for _ in range(2)] == [1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_closing_early_does_not_wait_for_items_in_progress() -> None:
    released = threading.Event()

    def stuck() -> Iterator[int]:
        yield 0
        released.wait(30)
        yield 1

    items, began = iter(Prefetch(stuck())), time.monotonic()
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 5
    released.set()


def test_after_a_join_everything_that_was_begun_is_done() -> None:
    prepared: list[int] = []

    def slow() -> Iterator[int]:
        for number in range(10):
            time.sleep(0.1)
            prepared.append(number)
            yield number

    items = Prefetch(slow())
    assert next(iter(items)) == 0
    items.join()
    assert prepared == list(range(1 + DEPTH))
    time.sleep(0.3)
    assert prepared == list(range(1 + DEPTH))
