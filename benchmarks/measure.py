"""Readings: a command in a new session, its time and the memory of all processes of the session.

The command prints its result as the last line of its output, one JSON object (`print_result`). One
that is stopped may have printed a part of it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GIB = 1 << 30
POLL_SECONDS = 0.05
PAGE, TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
DONE = "done"


@dataclass(frozen=True)
class Reading:
    """The outcome of one command."""

    outcome: str  # DONE, or the reason why there is no result
    seconds: float  # of the whole command, its start included
    peak_bytes: int  # highest sum of resident memory over its processes
    peak_process_bytes: int  # highest resident memory of any one of them
    result: Mapping[str, Any] = field(default_factory=dict)  # if it is DONE
    partial: Mapping[str, Any] = field(default_factory=dict)  # what it had printed, if it is not


def print_result(**values: Any) -> None:
    """Print the command's result for `measure`."""
    print(json.dumps(values), flush=True)


class Stopwatch:
    """The seconds since its creation, and the CPU seconds of the session's processes since then."""

    def __init__(self) -> None:
        self.started, self.used = time.perf_counter(), cpu_seconds()

    def read(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.started
        return {"seconds": seconds, "cpu_seconds": cpu_seconds() - self.used}


def measure(
    module: str, arguments: Sequence[str], limit_gib: float, limit_seconds: float
) -> Reading:
    """Run `python -m MODULE ARGUMENTS`; past either limit all its processes are killed."""
    return measure_command([sys.executable, "-m", module, *arguments], limit_gib, limit_seconds)


def measure_command(
    command: Sequence[str],
    limit_gib: float,
    limit_seconds: float,
    folder: str | None = None,
    poll_seconds: float = POLL_SECONDS,
) -> Reading:
    """Run a command in the folder (None: this one) as `measure` does.

    Limits are checked every `poll_seconds`; highest memory is the highest of these moments.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        started, peak, peak_process = time.monotonic(), 0, 0
        process = subprocess.Popen(
            command, stdout=out, stderr=errors, cwd=folder, start_new_session=True
        )
        outcome = DONE
        try:
            while process.poll() is None:
                resident = [resident_bytes(pid) for pid in pids_of_session(process.pid)]
                peak, peak_process = max(peak, sum(resident)), max(peak_process, *resident, 0)
                if peak > limit_gib * GIB:
                    outcome = f"stopped: more than {limit_gib:g} GiB"
                elif time.monotonic() - started > limit_seconds:
                    outcome = f"stopped: more than {limit_seconds:g} s"
                if outcome != DONE:
                    break
                time.sleep(poll_seconds)
        finally:
            kill_session(process)
        seconds = time.monotonic() - started
        if outcome == DONE and process.returncode:
            outcome = f"failed: {_reason(process.returncode, errors)}"
        if outcome == DONE:
            result, partial = json.loads(_last_line(out)), {}
        else:
            result, partial = {}, _partial_result(out)
    return Reading(outcome, seconds, peak, peak_process, result, partial)


def cpu_seconds() -> float:
    """Return the CPU time of all processes of this session and of the children they waited for."""
    fields = (_stat(pid)[11:15] for pid in pids_of_session(os.getsid(0)))
    return sum(int(ticks) for four in fields for ticks in four) / TICKS


def pids_of_session(leader: int) -> Iterator[int]:
    """Yield the running processes of the session of `leader`, orphans included."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            fields = _stat(int(path.name))
            if fields[3:4] == [str(leader)] and fields[0] != "Z":
                yield int(path.name)


def _stat(pid: int) -> list[str]:
    """Return the fields of proc(5) from the process's state on; [] if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process.

    Shared pages count in each of the processes, so a sum over processes is too high.
    """
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def kill_session(leader: subprocess.Popen[bytes]) -> None:
    """Kill every process of the session, and wait until there is none."""
    while pids := [
        pid for pid in pids_of_session(leader.pid) if pid != leader.pid or leader.poll() is None
    ]:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(POLL_SECONDS)
    leader.wait()


def _reason(code: int, errors: Any) -> str:
    """Return why a command failed: the signal that ended it, or its last line."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return _last_line(errors) or f"exit code {code}"


def _partial_result(out: Any) -> dict[str, Any]:
    """Return the last result that a command printed before it ended early, or {}."""
    out.seek(0)
    for line in reversed(out.readlines()):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return {}


def _last_line(file: Any) -> str:
    file.seek(0)
    lines = [line.strip() for line in file if line.strip()]
    return lines[-1] if lines else ""
