"""One thread of torch: products are then rounded as by the workers that write tables."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_calls: Counter[int] = Counter()  # that compute now, by thread of Python
_before = 0  # threads of torch when the first of them began


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute without gradients and with one thread, then restore the number of threads.

    Calls of several threads may overlap. Torch has a number for each thread, and a new thread takes
    the number that was set last. So all restore the one that was there before the first of them.
    """
    _enter(threading.get_ident())
    try:
        with torch.inference_mode():
            yield
    finally:
        _leave(threading.get_ident())


def _enter(thread: int) -> None:
    global _before
    with _lock:
        number = torch.get_num_threads()  # asked always: else a new thread takes one later on
        if not _calls:
            _before = number
        _calls[thread] += 1
        torch.set_num_threads(1)


def _leave(thread: int) -> None:
    with _lock:
        _calls[thread] -= 1
        if not _calls[thread]:
            del _calls[thread]
            torch.set_num_threads(_before)
