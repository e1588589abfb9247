"""The rate of a loop over batches, measured for a number of seconds.

Only the standard library is imported, because peers measure with this module too.
"""

import time

WARMUP_BATCHES = 2


class Pace:
    """Counts what the batches hold, after WARMUP_BATCHES others, until `seconds` have passed."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.batches = self.count = 0
        self.started = self.ended = 0.0

    def add(self, count: int) -> bool:
        """Count a batch that is done. Return whether the reading is over."""
        self.batches += 1
        self.ended = time.perf_counter()
        if self.batches <= WARMUP_BATCHES:
            self.started = self.ended
            return False
        self.count += count
        return self.ended - self.started >= self.seconds

    @property
    def rate(self) -> float:
        return self.count / (self.ended - self.started)
