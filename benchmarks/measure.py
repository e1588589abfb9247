"""One reading: a command in a session of its own, its time and the memory of all its processes.

A command prints its answer as the last line of its output, one JSON object (`answer`).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GIB = 1 << 30
POLL_SECONDS = 0.05
PAGE, TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
DONE = "done"


@dataclass(frozen=True)
class Reading:
    outcome: str  # DONE, or why there is no answer
    seconds: float  # of the whole command, its start included
    peak_bytes: int  # highest sum of resident memory over its processes
    peak_process_bytes: int  # highest of any one of them
    answer: Mapping[str, Any] = field(default_factory=dict)


def answer(**values: Any) -> None:
    """What the command found, for `measured`."""
    print(json.dumps(values), flush=True)


class Stopwatch:
    """Seconds since it was made, and of all cores that the session's processes have used since."""

    def __init__(self) -> None:
        self.began, self.used = time.perf_counter(), cpu_seconds()

    def read(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.began
        return {"seconds": seconds, "cpu_seconds": cpu_seconds() - self.used}


def measured(module: str, words: Sequence[str], limit_gib: float, limit_seconds: float) -> Reading:
    """`python -m MODULE WORDS`, ended with all its processes past either limit."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        began, peak, peak_process = time.monotonic(), 0, 0
        command = [sys.executable, "-m", module, *words]
        process = subprocess.Popen(command, stdout=out, stderr=errors, start_new_session=True)
        outcome = DONE
        try:
            while process.poll() is None:
                resident = [resident_bytes(pid) for pid in session(process.pid)]
                peak, peak_process = max(peak, sum(resident)), max(peak_process, *resident, 0)
                if peak > limit_gib * GIB:
                    outcome = f"stopped: more than {limit_gib:g} GiB"
                elif time.monotonic() - began > limit_seconds:
                    outcome = f"stopped: more than {limit_seconds:g} s"
                if outcome != DONE:
                    break
                time.sleep(POLL_SECONDS)
        finally:
            end_session(process)
        seconds = time.monotonic() - began
        if outcome == DONE and process.returncode:
            outcome = f"failed: {_last_line(errors) or f'exit code {process.returncode}'}"
        found = json.loads(_last_line(out)) if outcome == DONE else {}
    return Reading(outcome, seconds, peak, peak_process, found)


def cpu_seconds() -> float:
    """Of all processes of this session, with the children that they have waited for."""
    fields = (_stat(pid)[11:15] for pid in session(os.getsid(0)))
    return sum(int(ticks) for four in fields for ticks in four) / TICKS


def session(leader: int) -> Iterator[int]:
    """Every running process of the session that `leader` opened, also one whose parent is gone."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            fields = _stat(int(path.name))
            if fields[3:4] == [str(leader)] and fields[0] != "Z":
                yield int(path.name)


def _stat(pid: int) -> list[str]:
    """The fields of proc(5) from the process's state on; none if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def resident_bytes(pid: int) -> int:
    """Pages that processes share count in each of them, so a sum errs upwards."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def end_session(leader: subprocess.Popen[bytes]) -> None:
    """No process of the session is left."""
    while left := [
        pid for pid in session(leader.pid) if pid != leader.pid or leader.poll() is None
    ]:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(POLL_SECONDS)
    leader.wait()


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _last_line(file: Any) -> str:
    file.seek(0)
    lines = [line.strip() for line in file if line.strip()]
    return lines[-1] if lines else ""
