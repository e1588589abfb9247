"""What is made ahead is what there was, in its order, and is made no further than asked for."""

import threading
import time
from collections.abc import Iterator

import pytest

from training.data.prefetch import DEPTH, prefetch


def test_items_come_in_order_and_what_is_raised_comes_in_its_turn() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("away")

    items = prefetch(failing())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="away"):
        next(items)
    assert list(prefetch(iter([]))) == [] and list(prefetch(iter([None, 3]))) == [None, 3]


def test_the_next_items_are_made_while_one_is_used() -> None:
    made: list[int] = []

    def counted() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    items = prefetch(counted())
    assert next(items) == 0
    deadline = time.monotonic() + 10
    while len(made) < 1 + DEPTH and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == list(range(1 + DEPTH))
    items.close()


def test_who_leaves_early_does_not_wait() -> None:
    released = threading.Event()

    def stuck() -> Iterator[int]:
        yield 0
        released.wait(30)
        yield 1

    items, began = prefetch(stuck()), time.monotonic()
    assert next(items) == 0
    items.close()
    assert time.monotonic() - began < 5
    released.set()
