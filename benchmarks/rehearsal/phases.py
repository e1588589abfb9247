"""Seconds, the peak of memory and the bytes sent in each phase of a process."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.memory import process_bytes, trim_memory
from benchmarks.scale.processes import RESET_PEAK
from benchmarks.sizes.shape import Graphs
from training.sharding.owners import Owners

STEPS = "steps"  # the phase whose work is counted


@dataclass
class Phase:
    """A phase: its bytes sent are by kind, and `times` says how often it did its work."""

    seconds: float
    cpu_seconds: float
    peak: int  # VmHWM
    bytes_sent: dict[str, int]
    times: int = 1
    figures: dict[str, Any] = field(default_factory=dict)


class Phases:
    """The phases so far, by name."""

    def __init__(self, owners: Owners, prints: bool = True) -> None:
        self._prints = prints
        self.owners = owners
        self.found: dict[str, Phase] = {}
        self.graphs: Graphs | None = None  # counted when they are loaded
        trim_memory()
        self.before = process_bytes("VmRSS")

    @contextmanager
    def phase(self, name: str, times: int = 1) -> Iterator[dict[str, Any]]:
        """Measure a phase; figures of its own can be put into the dict."""
        trim_memory()
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
        sent = self._sent()
        figures: dict[str, Any] = {}
        started, used = time.perf_counter(), time.process_time()
        yield figures
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
        now = self._sent()
        moved = {what: now[what] - sent.get(what, 0) for what in now}
        moved = {what: count for what, count in moved.items() if count}
        peak = process_bytes("VmHWM")
        self.found[name] = Phase(seconds, cpu, peak, moved, times, figures)
        if self._prints:
            print(
                f"{name}: {seconds:.1f} s, {cpu:.1f} s of CPU, {peak / 2**30:.2f} GiB", flush=True
            )

    def _sent(self) -> dict[str, int]:
        """Return the bytes sent so far, of the training and of the thread that prepares it."""
        total = dict(self.owners.peers.bytes_sent)
        for what, count in self.owners.planner.bytes_sent.items():
            total[what] = total.get(what, 0) + count
        return total

    def as_json(self) -> dict[str, Any]:
        return {
            "before": self.before,
            "graphs": None if self.graphs is None else self.graphs._asdict(),
            "phases": {name: asdict(phase) for name, phase in self.found.items()},
        }
