"""Processes of Ray by their titles."""

from contextlib import suppress

import psutil


def ray_processes(parent: psutil.Process, title: str) -> list[psutil.Process]:
    """Return the descendants of a process whose title begins with `ray::TITLE`."""
    found = []
    for process in parent.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            if "".join(process.cmdline()[:1]).startswith(f"ray::{title}"):
                found.append(process)
    return found
