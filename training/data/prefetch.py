"""Prefetch: a background thread prepares the next items while one is used."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

DEPTH = 2  # items prepared in advance


def prefetch(source: Iterator[Item]) -> Iterator[Item]:
    """Yield the items of `source`, which a background thread computes `DEPTH` items in advance.

    An exception of `source` is raised when its item is due.
    """
    end = object()
    thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        pending = deque(thread.submit(next, source, end) for _ in range(DEPTH))
        while (item := pending.popleft().result()) is not end:
            pending.append(thread.submit(next, source, end))
            yield item  # type: ignore[misc]
    finally:
        # A consumer that stops early does not wait. What was begun is finished, because an item can
        # need a collective, in which the other ranks would wait for this one.
        thread.shutdown(wait=False)
