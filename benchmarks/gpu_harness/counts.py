"""What a GPU would do: kernels that are launched, copies, and where the host waits for it."""

import sys
import traceback
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parent.parent.parent
OURS = [ROOT / name for name in ("cluster", "etl", "evaluation", "mdsrec", "training", "tuning")]


class Counts:
    """Counts of a part of the work, by operation or place in this project's code."""

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()  # by operation
        self.waits: Counter[str] = Counter()  # of the host for the GPU, by reason and place
        self.copies: Counter[str] = Counter()  # from host memory, by kind and place
        self.missing: Counter[str] = Counter()  # operations without a kernel for CUDA, by place
        self.places: Counter[str] = Counter()  # launches, by place

    def launch(self, operation: str) -> None:
        self.launches[operation] += 1
        self.places[place()] += 1

    def wait(self, reason: str) -> None:
        self.waits[f"{reason} at {place()}"] += 1

    def copy(self, is_pinned: bool) -> None:
        self.copies[f"{'pinned' if is_pinned else 'pageable'} at {place()}"] += 1

    def lack(self, operation: str) -> None:
        self.missing[f"{operation} at {place()}"] += 1

    @property
    def num_pageable(self) -> int:
        """Return the copies that wait, because the host's memory is not pinned."""
        return sum(n for copy, n in self.copies.items() if copy.startswith("pageable"))


def place() -> str:
    """Return `training/step.py:87`, the innermost line of this project's code that is running."""
    return _innermost(traceback.walk_stack(sys._getframe(1)))


def place_of(error: BaseException) -> str:
    """Return the innermost line of this project's code that an error came through."""
    return _innermost(reversed(list(traceback.walk_tb(error.__traceback__))))


def _innermost(frames: Iterable[tuple[FrameType, int]]) -> str:
    for frame, line in frames:
        path = Path(frame.f_code.co_filename)
        if any(map(path.is_relative_to, OURS)):
            return f"{path.relative_to(ROOT)}:{line}"
    return "?"
