"""Ray's processes, by their titles."""

from contextlib import suppress

import psutil


def ray_processes(above: psutil.Process, title: str) -> list[psutil.Process]:
    """Those below a process that are called `ray::TITLE...`, but what ends meanwhile."""
    found = []
    for process in above.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "".join(process.cmdline()[:1]).startswith(f"ray::{title}"):
                found.append(process)
    return found
