"""Leases: one job writes a table or a run at a time.

The holder keeps a heartbeat file for each thing that it writes, with its id and a counter, which it
increases every `HEARTBEAT_SECONDS`. Another job watches the counter for `EXPIRY_SECONDS`. If it
moves, the holder is alive, and the other job is refused or waits. If it does not, the holder is
dead, and the other takes over the lease. A process of the same machine that has ended is known at
once. Clocks of different hosts are never compared.

A job that was suspended may lose its lease and not know it. So every commit calls `check_leases`.
"""

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from mdsrec import files
from mdsrec.errors import InputError
from mdsrec.jobs.process import has_ended, this_process

log = logging.getLogger("mdsrec")

HEARTBEAT_SECONDS = 3.0
EXPIRY_SECONDS = 30.0  # without a heartbeat, after which a lease is free
SETTLE_SECONDS = 0.5  # time for a job that started at the same moment to write its heartbeat too

Heartbeat = dict[str, Any]
"""Content of a heartbeat file: host, pid, since, token (the holder's id), count."""

_held: list["Lease"] = []  # by this process


class Lease:
    """The lease of what the heartbeat files stand for, as one holder has it."""

    def __init__(self, heartbeat_files: Sequence[str]) -> None:
        self.files = sorted(heartbeat_files)
        self.token = uuid.uuid4().hex
        self.lock = threading.Lock()
        self._process, self._count, self._since = this_process(), 0, ""

    def content(self) -> Heartbeat:
        """Return the content of the heartbeat files now."""
        about = {**self._process, "since": self._since}
        return {**about, "token": self.token, "count": self._count}

    def other_holder(self) -> Heartbeat | None:
        """Return the heartbeat of another job that holds one of the files, or None."""
        found = (read_heartbeat(file) for file in self.files)
        return next((each for each in found if each and each["token"] != self.token), None)

    def is_lost(self) -> bool:
        """Return True if another job has taken over a file; it may have ended and deleted it."""
        found = [read_heartbeat(file) for file in self.files]
        return any(each is None or each["token"] != self.token for each in found)

    def begin(self) -> None:
        """Write the heartbeat files for the first time."""
        self._since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self.write()

    def write(self) -> None:
        """Write the heartbeat files."""
        for file in self.files:
            files.write_json(file, self.content())

    def beat(self, ended: threading.Event) -> None:
        """Increase the counter until `ended` is set or the lease is lost."""
        while not ended.wait(HEARTBEAT_SECONDS):
            with self.lock, suppress(*files.STORAGE_ERRORS):  # storage may be back at the next one
                if self.is_lost():
                    return
                self._count += 1
                self.write()

    def release(self) -> None:
        """Delete the heartbeat files that are still this job's."""
        for file in self.files:
            found = read_heartbeat(file)
            if found and found["token"] == self.token:
                files.delete_file(file)


@contextmanager
def hold(
    lease: Lease, doing: str, remedy: str = "", waits: bool = False, takes_over: bool = False
) -> Iterator[None]:
    """Hold the lease. `doing` says in messages what its holder does.

    While another job holds it: wait for that with `waits`, take it away with `takes_over`;
    otherwise InputError that ends with `remedy`.
    """

    def refuse(holder: Heartbeat) -> None:
        if not waits:
            raise InputError(f"{describe(holder)} is {doing}: {remedy}")

    _acquire(lease, doing, refuse, takes_over)
    ended = threading.Event()
    thread = threading.Thread(target=lease.beat, args=(ended,), name="heartbeat", daemon=True)
    thread.start()
    _held.append(lease)
    try:
        yield
    finally:
        _held.remove(lease)
        ended.set()
        thread.join()
        with suppress(*files.STORAGE_ERRORS):
            lease.release()


def check_leases() -> None:
    """Raise InputError if another job has taken over a lease that this process holds."""
    for lease in _held:
        if lease.is_lost():
            other = lease.other_holder()
            raise InputError(
                f"{describe(other) if other else 'another job, which has ended,'} has taken over "
                f"what this process was writing, because it gave no sign of life for "
                f"{EXPIRY_SECONDS:g} s: it ends without a write; run the command again"
                + (" when the other one has ended" if other else "")
            )


def describe(holder: Heartbeat) -> str:
    """Return the process that holds a lease, as `process 7 on node-1 (since ...)`."""
    since = f" (since {holder['since']})" if "since" in holder else ""
    return f"process {holder.get('pid')} on {holder.get('host')}{since}"


def read_heartbeat(file: str) -> Heartbeat | None:
    """Return the content of a heartbeat file, or None if it is absent or incomplete."""
    try:
        found: Heartbeat = files.read_json(file)
    except ValueError:
        return None
    return found if "token" in found else None


def _acquire(
    lease: Lease, doing: str, refuse: Callable[[Heartbeat], None], takes_over: bool
) -> None:
    """Write the heartbeat files once no living job holds any of them.

    Of jobs that do so at the same moment all but one find another id in a file. They release
    theirs and try again at different times.
    """
    while True:
        dead: set[str] = set()  # tokens
        while not takes_over and any(_is_held(file, dead) for file in lease.files):
            for file in lease.files:
                if _is_held(file, dead):
                    dead |= _wait_until_free(file, doing, refuse)
        lease.begin()
        time.sleep(SETTLE_SECONDS)
        other = lease.other_holder()
        if other is None:
            return
        refuse(other)
        lease.release()
        time.sleep(random.uniform(0, 4 * SETTLE_SECONDS))


def _is_held(file: str, dead: set[str]) -> bool:
    found = read_heartbeat(file)
    return found is not None and found["token"] not in dead


def _wait_until_free(file: str, doing: str, refuse: Callable[[Heartbeat], None]) -> set[str]:
    """Wait until no job holds the file -> the token of a dead one that did.

    `refuse` is called with the heartbeat of a living one.
    """
    last, is_said = read_heartbeat(file), False
    if last is None:
        return set()
    if not has_ended(last):
        log.info("%s", f"{file} exists: waiting {EXPIRY_SECONDS:g} s to see if its job is alive")
    deadline = time.monotonic() + EXPIRY_SECONDS
    while time.monotonic() < deadline and not has_ended(last):
        time.sleep(HEARTBEAT_SECONDS / 10)
        now = read_heartbeat(file)
        if now is None:
            return set()
        if now != last:
            refuse(now)
            if not is_said:
                log.warning("%s is %s: waiting for it to end", describe(now), doing)
            last, is_said, deadline = now, True, time.monotonic() + EXPIRY_SECONDS
    return {last["token"]}
