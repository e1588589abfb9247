"""The heap of a process that trains on a CPU."""

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # numbers of mallopt(3)
KEPT_BYTES = 256 << 20  # free memory that stays in the process
GROWTH_BYTES = 64 << 20
LARGE_BYTES = 32 << 20  # an array of this size has pages of its own: glibc allows no more


def keep_freed_memory() -> None:
    """Let this process use the memory of freed arrays again, if its C library is glibc.

    By default, the memory returns to the system, which clears the pages of the next array. That
    took a tenth of a step of SASRec in bf16 (4,385 items, D 300).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(TOP_PAD, GROWTH_BYTES)
        mallopt(MMAP_THRESHOLD, LARGE_BYTES)
