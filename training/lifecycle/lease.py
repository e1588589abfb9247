"""The lease of a run: one driver trains it at a time.

The driver keeps a heartbeat file `<run>.writer` with its id and a counter, which it increases
every `HEARTBEAT_SECONDS`. A second driver watches the counter for `EXPIRY_SECONDS`. If it moves,
the second driver is refused. If it does not, the first one is dead, and the second takes over the
lease. Clocks of different hosts are never compared.

`Attempt` is a fencing token. Workers check it against the heartbeat file before they write. So the
workers of a driver that was suspended, and lost the lease meanwhile, end without a write. The same
holds for drivers that start together on storage too slow for `SETTLE_SECONDS`: all but one find
another id in the file. The number in the token rises with every attempt of the same driver, since
workers of an earlier attempt may be cut off from the driver but still reach storage.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from mdsrec import files
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths

log = logging.getLogger("training")

HEARTBEAT_SECONDS = 3.0
EXPIRY_SECONDS = 30.0  # without a heartbeat, after which a lease is free
SETTLE_SECONDS = 0.5  # time for a driver that started at the same moment to write its heartbeat too

Heartbeat = dict[str, Any]
"""Content of the heartbeat file: host, pid, token (the driver's id), attempt, count."""


class Attempt(NamedTuple):
    """The fencing token of one attempt to train a run."""

    driver: str
    number: int


class RunLease:
    """The lease of a run, as its driver holds it."""

    def __init__(self, run: str) -> None:
        self._run, self._count = run, 0
        self._lock = threading.Lock()
        self._process: Heartbeat = {"host": socket.gethostname(), "pid": os.getpid()}
        self._attempt = Attempt(uuid.uuid4().hex, 0)

    def other_holder(self) -> Heartbeat | None:
        """Return the heartbeat of another driver that holds the lease, or None."""
        found = _read(self._run)
        return found if found and found["token"] != self._attempt.driver else None

    def write(self) -> None:
        """Write the heartbeat file."""
        driver, number = self._attempt
        content = {**self._process, "token": driver, "attempt": number, "count": self._count}
        files.write_json(RunPaths(self._run).lease, content)

    def begin_attempt(self) -> Attempt:
        """Return the token of a new attempt.

        From the next heartbeat that reaches storage on, tokens of earlier attempts are superseded.
        """
        with self._lock, suppress(*files.STORAGE_ERRORS):
            self._attempt = self._attempt._replace(number=self._attempt.number + 1)
            if not self.other_holder():
                self.write()
        return self._attempt

    def heartbeat(self, ended: threading.Event) -> None:
        """Increase the counter until `ended` is set or another driver holds the lease."""
        while not ended.wait(HEARTBEAT_SECONDS):
            with self._lock, suppress(*files.STORAGE_ERRORS):  # storage may be back at the next one
                if self.other_holder():
                    return
                self._count += 1
                self.write()


@contextmanager
def run_lease(run: str, takes_over: bool = False) -> Iterator[RunLease]:
    """Hold the lease of `run`, so that no other driver trains it.

    With `takes_over` the lease is taken from a driver that is alive; that one ends without a write.
    Otherwise InputError names the driver that holds it.
    """
    if not takes_over:
        _wait_until_free(run)
    lease = RunLease(run)
    lease.write()
    time.sleep(SETTLE_SECONDS)
    if other := lease.other_holder():
        raise InputError(_refusal(run, other))
    ended = threading.Event()
    thread = threading.Thread(target=lease.heartbeat, args=(ended,), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        with suppress(*files.STORAGE_ERRORS):
            if not lease.other_holder():
                files.delete_file(RunPaths(run).lease)


def is_superseded(run: str, attempt: Attempt) -> bool:
    """Return True if another driver, or a later attempt of the same one, holds the lease."""
    found = _read(run)
    if not found:
        return False
    return bool(found["token"] != attempt.driver or found["attempt"] > attempt.number)


def _wait_until_free(run: str) -> None:
    """Wait until no driver holds the lease. InputError if one is alive."""
    first = _read(run)
    if first is None:
        return
    uri = RunPaths(run).lease
    log.info("%s", f"{uri} exists: waiting {EXPIRY_SECONDS:g} s to see if its driver is alive")
    deadline = time.monotonic() + EXPIRY_SECONDS
    while time.monotonic() < deadline:
        time.sleep(HEARTBEAT_SECONDS / 10)
        now = _read(run)
        if now is None:
            return
        if now != first:
            raise InputError(_refusal(run, now))


def _refusal(run: str, holder: Heartbeat) -> str:
    return (
        f"{run}: process {holder['pid']} on {holder['host']} is training it: wait for it, stop it "
        f"by creating the file {RunPaths(run).stop}, or choose another name"
    )


def _read(run: str) -> Heartbeat | None:
    """Return the content of the heartbeat file, or None if it is absent or incomplete."""
    try:
        found: Heartbeat = files.read_json(RunPaths(run).lease)
    except ValueError:
        return None
    return found if "token" in found else None
