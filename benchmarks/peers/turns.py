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
    """Return the readings. After one without a result, there are no others of that kind."""
    found: Found = {name: {method: [] for method in METHODS} for name in contestants}
    for _ in range(readings):
        for method in METHODS:
            for name, contestant in contestants.items():
                of_kind = found[name][method]
                if method not in contestant.methods or any(r.outcome != DONE for r in of_kind):
                    continue
                of_kind.append(contestant.measure(method, folder))
                print(_line(name, method, of_kind[-1]), file=sys.stderr, flush=True)
    return found


def _line(name: str, method: Method, reading: Reading) -> str:
    rate = f"{reading.result['rate']:,.1f}/s" if reading.outcome == DONE else reading.outcome
    peak = f"{reading.peak_process_bytes / GIB:.2f} GiB"
    return f"{name}, {method}: {rate}, {peak}, {reading.seconds:.0f} s in all"


def speed_table(found: Found, peer: str) -> str:
    """Return medians with the lowest and the highest, and the ratio to the peer's median."""
    rows = [
        [name, *(cell for method in METHODS for cell in _cells(found, name, method, peer))]
        for name in found
    ]
    columns = ["training, prefixes/s", f"times {peer}", "peak"]
    columns += ["lists, users/s", f"times {peer}", "peak"]
    return markdown_table(["model", *columns], rows)


def _cells(found: Found, name: str, method: Method, peer: str) -> list[str]:
    readings = found[name][method]
    if not readings:
        return ["", "", ""]
    rates = _rates(readings)
    peak = f"{max(reading.peak_process_bytes for reading in readings) / GIB:.2f} GiB"
    if not rates:
        return [f"did not finish ({readings[-1].outcome})", "", peak]
    median, theirs = statistics.median(rates), _rates(found[peer][method])
    times = f"{median / statistics.median(theirs):.1f}" if theirs else ""
    return [f"{median:,.0f} ({min(rates):,.0f}-{max(rates):,.0f})", times, peak]


def _rates(readings: list[Reading]) -> list[float]:
    """Return the rates; none if a reading has no result."""
    if any(reading.outcome != DONE for reading in readings):
        return []
    return [reading.result["rate"] for reading in readings]
