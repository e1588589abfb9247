"""What is needed next is made while what came before it is used."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

DEPTH = 2  # items that wait


def ahead(source: Iterator[Item]) -> Iterator[Item]:
    """`source`, which a thread of its own goes through, `DEPTH` items ahead. What it raises is
    raised here in its turn.
    """
    end = object()
    thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        waiting = deque(thread.submit(next, source, end) for _ in range(DEPTH))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, source, end))
            yield item  # type: ignore[misc]
    finally:  # who leaves early does not wait for what nobody wants
        thread.shutdown(wait=False, cancel_futures=True)
