"""Readings in turns: each contestant once, then each again, so that all see the same machine."""

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.measure import DONE, GIB, Reading
from benchmarks.peers.request import Method
from mdsrec.text import markdown_table

METHODS: tuple[Method, ...] = ("train", "rank")
Found = Mapping[str, Mapping[Method, list[Reading]]]
"""The readings of every contestant, by method."""


class Contestant(Protocol):
    """A model, and what is measured of it."""

    @property
    def methods(self) -> Sequence[Method]: ...
    def measure(self, method: Method, folder: Path) -> Reading: ...


def in_turns(contestants: Mapping[str, Contestant], folder: Path, readings: int) -> Found:
    """Take the readings. One without a result is the last of its contestant and method."""
    found: Found = {name: {method: [] for method in METHODS} for name in contestants}
    for _ in range(readings):
        for method in METHODS:
            for name, contestant in contestants.items():
                of_kind = found[name][method]
                if method not in contestant.methods or any(r.outcome != DONE for r in of_kind):
                    continue
                of_kind.append(contestant.measure(method, folder))
                print(described(f"{name}, {method}", of_kind[-1]), file=sys.stderr, flush=True)
    return found


def described(name: str, reading: Reading) -> str:
    """Return a line with the rates and the memory of a reading, or why it has none."""
    result = reading.result
    rate = reading.outcome
    if rate == DONE:
        rate = f"{result['rate']:,.1f}/s, {result['cpu_rate']:,.1f} in a CPU second"
    return f"{name}: {rate}, {_peak([reading])}, {reading.seconds:.0f} s in all"


def speed_table(found: Found, peer: str) -> str:
    """Return medians with the lowest and the highest, and the ratios to the peer's medians.

    The second ratio is that of rates in a CPU second.
    """
    rows = [
        [name, *(cell for method in METHODS for cell in _cells(found, name, method, peer))]
        for name in found
    ]
    times = [f"times {peer}", "in a CPU second", "peak"]
    columns = ["training, prefixes/s", *times, "lists, users/s", *times]
    return markdown_table(["model", *columns], rows)


def _cells(found: Found, name: str, method: Method, peer: str) -> list[str]:
    readings = found[name][method]
    if not readings:
        return [""] * 4
    peak, rates = _peak(readings), _rates(readings, "rate")
    if not rates:
        return [f"did not finish ({readings[-1].outcome})", "", "", peak]
    median = f"{statistics.median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})"
    theirs = found[peer][method]
    return [median, *(_ratio(readings, theirs, key) for key in ("rate", "cpu_rate")), peak]


def _ratio(readings: list[Reading], theirs: list[Reading], key: str) -> str:
    rates, of_peer = _rates(readings, key), _rates(theirs, key)
    return f"{statistics.median(rates) / statistics.median(of_peer):.1f}" if of_peer else ""


def _peak(readings: list[Reading]) -> str:
    """Return the highest memory. That of a process that was stopped is the highest one seen."""
    peaks = [reading.result.get("peak", reading.peak_process_bytes) for reading in readings]
    return f"{max(peaks) / GIB:.2f} GiB"


def _rates(readings: list[Reading], key: str) -> list[float]:
    """Return the rates; none if a reading has no result."""
    if any(reading.outcome != DONE for reading in readings):
        return []
    return [reading.result[key] for reading in readings]
