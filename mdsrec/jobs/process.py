"""The identity of a process, as other processes and machines read it from a lease."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BOOT = Path("/proc/sys/kernel/random/boot_id")
PID_SPACE = Path("/proc/self/ns/pid")
ENDED = ("Z", "X")  # states of a process that has ended and still has an entry


def this_process() -> dict[str, Any]:
    """Return host, pid, and what tells this process from a later one of the same pid."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "machine": _machine(),
        "started": _start_of(pid),
    }


def has_ended(process: Mapping[str, Any]) -> bool:
    """Return True if a process of this machine is known to have ended.

    False if it runs, and also if this process cannot know: on another machine, in another
    container.
    """
    if not process.get("machine") or process["machine"] != _machine():
        return False
    return bool(_start_of(process["pid"]) != process.get("started"))


def _machine() -> str:
    """Return the boot and the space of pids of this process; empty where there is no /proc."""
    try:
        return f"{BOOT.read_text().strip()} {PID_SPACE.readlink()}"
    except OSError:
        return ""


def _start_of(pid: int) -> int | None:
    """Return the start of a process, in ticks since the boot; None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before may have spaces
    return None if state in ENDED else int(fields[18])
