"""Prefetch: a background thread prepares the next items while one is used."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")

DEPTH = 2  # items prepared in advance
END = object()


class Prefetch(Generic[Item]):
    """The items of `source`, which a background thread computes `DEPTH` items in advance.

    An exception of `source` is raised when its item is due. The background thread computes with one
    thread: it would get as many of its own as the consumer has, for whose cores they would wait.
    """

    def __init__(self, source: Iterator[Item]) -> None:
        self._source = source
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="prefetch", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._pending = deque(self._thread.submit(next, source, END) for _ in range(DEPTH))

    def __iter__(self) -> Iterator[Item]:
        """Yield the items. A consumer that stops early does not wait.

        What was begun is finished, because an item can need a collective, in which the other ranks
        would wait for this one.
        """
        try:
            while (item := self._pending.popleft().result()) is not END:
                self._pending.append(self._thread.submit(next, self._source, END))
                yield item  # type: ignore[misc]
        finally:
            self._thread.shutdown(wait=False)

    def join(self) -> None:
        """Wait for what was begun. Needed before process groups end, as it can need collectives.

        Every rank must have taken equally many items.
        """
        self._thread.shutdown()
