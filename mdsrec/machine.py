"""The machine that a process runs on."""

import os
from pathlib import Path

import psutil

THREADS_KEY = "OMP_NUM_THREADS"  # of the threads that a process computes with
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # microseconds of CPU time in each period, or max


def machine_memory() -> int:
    """Return the memory in bytes of this machine, or of its container if that has a lower limit."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CONTAINER_LIMIT.read_text().strip() if CONTAINER_LIMIT.is_file() else "max"
    return min(physical, int(limit)) if limit.isdigit() else physical


def cores_to_use() -> int:
    """Return how many cores of this machine a command computes on.

    OMP_NUM_THREADS says it, or they are all but one of those that this process may use. That one
    is for other processes: threads that wait for each other in every operation wait long where one
    of them has to share its core. Two threads of a core count as one core.
    """
    given = os.environ.get(THREADS_KEY, "")
    if given.isdecimal() and int(given):
        return int(given)
    return max(1, _available_cores() - 1)


def _available_cores() -> int:
    """Return the cores of this machine, or of its container or set of CPUs if these have fewer."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    quota, period = (CPU_LIMIT.read_text().split() if CPU_LIMIT.is_file() else ("max", "1"))[:2]
    return min(cores, int(quota) // int(period)) if quota.isdigit() else cores
