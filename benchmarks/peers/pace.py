"""Rates in a second, and in a second of the process's CPU time.

CPU time leaves out the time that the process waits for cores that other processes use.

Only the standard library is imported, because peers measure with this module too.
"""

import time
from pathlib import Path

WARMUP_BATCHES = 2


class Timer:
    """The seconds since its creation."""

    def __init__(self) -> None:
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def rates(self, count: int) -> dict[str, float]:
        """Return the rates of `count` things that were done since the creation."""
        cpu_seconds = time.process_time() - self.cpu_started
        return {"rate": count / self.seconds(), "cpu_rate": count / cpu_seconds}


class Pace:
    """The rates of training: counts after WARMUP_BATCHES batches, until `seconds` have passed."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.batches, self.count = seconds, 0, 0
        self.rates: dict[str, float] = {}

    def add(self, count: int) -> bool:
        """Count a batch that is done. Return whether the reading is over."""
        self.batches += 1
        if self.batches <= WARMUP_BATCHES:
            self.timer = Timer()
            return False
        self.count += count
        self.rates = self.timer.rates(self.count)
        return self.timer.seconds() >= self.seconds


def peak_bytes() -> int:
    """Return the highest resident memory of this process until now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
