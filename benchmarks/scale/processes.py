"""The peak memory and the CPU time of every process that a command starts, by stage.

A process's peak is VmHWM of its /proc/PID/status. It is gone when the process ends, so all of them
are read about ten times a second. At the start of a stage the peaks are reset.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 0.1  # seconds
RESET_PEAK = "5"  # see /proc/PID/clear_refs in proc(5)
TICKS = os.sysconf("SC_CLK_TCK")  # a second
UTIME, STIME = 11, 12  # of the fields behind the name in /proc/PID/stat
DRIVER, JVM, PYTHON_WORKER, OTHER = "driver", "JVM", "Python worker", "other"


@dataclass
class Process:
    """A process, and its highest resident memory so far in the stage."""

    pid: int
    kind: str = OTHER
    command: str = ""
    peak: int = 0


class Sampler:
    """A context that reads the peaks of a process and of all that descend from it."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.peaks: dict[str, dict[int, Process]] = {}  # by stage, then by process
        self.cpu_seconds: dict[str, float] = {}  # by stage, of all processes
        self._cpu_of: dict[int, float] = {}  # of each process so far
        self._stage, self._known = "", {root}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._poll, name="sampler", daemon=True)

    def __enter__(self) -> "Sampler":
        self.begin("start")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def begin(self, stage: str) -> None:
        """Start a stage: the peaks of the processes that run now are reset."""
        with self._lock:
            if self._stage:
                self._read()
            self._stage = stage
            self.peaks.setdefault(stage, {})
            self.cpu_seconds.setdefault(stage, 0.0)
            for pid in self._known:
                with suppress(OSError):
                    Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)

    def highest(self, stage: str) -> dict[str, int]:
        """Return the highest peak of a stage's processes, by kind."""
        found: dict[str, int] = {}
        for process in self.peaks[stage].values():
            found[process.kind] = max(found.get(process.kind, 0), process.peak)
        return found

    def _poll(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                self._read()
            time.sleep(INTERVAL)

    def _read(self) -> None:
        pending = list(self._known)
        while pending:
            pid = pending.pop()
            for child in children_of(pid):
                if child not in self._known:
                    self._known.add(child)
                    pending.append(child)
        stage = self.peaks[self._stage]
        for pid in list(self._known):
            peak = status_bytes(pid, "VmHWM")
            if peak is None:
                self._known.discard(pid)
                continue
            process = stage.setdefault(pid, Process(pid))
            process.command = command_of(pid) or process.command  # another one begins with exec
            process.kind = DRIVER if pid == self.root else kind_of(process.command)
            process.peak = max(process.peak, peak)
            cpu = cpu_seconds_of(pid)
            self.cpu_seconds[self._stage] += max(0.0, cpu - self._cpu_of.get(pid, 0.0))
            self._cpu_of[pid] = cpu


def children_of(pid: int) -> Iterator[int]:
    """Yield the children of all threads of a process; those of one that has ended are orphans."""
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                yield from map(int, (thread / "children").read_text().split())


def status_bytes(pid: int | str, field: str, file: str = "status") -> int | None:
    """Return a field of /proc/PID/status in bytes; None if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return None
    found = (int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))
    return next(found, None)


def cpu_seconds_of(pid: int) -> float:
    """Return the CPU time of a process without its children; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0
    return (int(fields[UTIME]) + int(fields[STIME])) / TICKS


def command_of(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return " ".join(words)[:200].strip()


def kind_of(command: str) -> str:
    """Return what a process of Spark is; Ray's and those of the shell are OTHER."""
    if "java" in command.partition(" ")[0]:
        return JVM
    return PYTHON_WORKER if "pyspark" in command else OTHER
