"""The speed of this machine, measured: its memory and its matrix products."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from benchmarks.sizes.seconds import Part

WIDTH = 2048  # of the matrices
COPIED = 64 << 20  # floats, more than a cache holds
READINGS = 5


class Machine(NamedTuple):
    """The best of a few readings, in decimal units."""

    gigabytes_per_second: float  # of memory, read and written
    gigaflops: float  # of products of float32 matrices

    def seconds(self, part: Part) -> float:
        """Return the time of the slower resource. Links to other ranks take no time here."""
        moved = part.read / (self.gigabytes_per_second * 1e9)
        return max(moved, part.flops / (self.gigaflops * 1e9))


def this_machine() -> Machine:
    """Measure this machine, with the threads that torch uses."""
    left, right, product = (torch.ones(WIDTH, WIDTH) for _ in range(3))
    source, target = torch.ones(COPIED), torch.empty(COPIED)
    products = _fastest(lambda: torch.mm(left, right, out=product))
    copies = _fastest(lambda: target.copy_(source))
    return Machine(2 * source.nbytes / copies / 1e9, 2 * WIDTH**3 / products / 1e9)


def _fastest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of READINGS."""
    seconds = []
    for _ in range(READINGS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
