"""The lease of a run: one driver trains it at a time (`mdsrec.jobs.lease`).

`Attempt` is a fencing token. Workers check it against the heartbeat file `<run>.writer` before they
write. So the workers of a driver that was suspended, and lost the lease meanwhile, end without a
write. The same holds for drivers that start together on storage too slow for `SETTLE_SECONDS`: all
but one find another id in the file. The number in the token rises with every attempt of the same
driver, since workers of an earlier attempt may be cut off from the driver but still reach storage.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from mdsrec import files
from mdsrec.jobs.lease import Heartbeat, Lease, hold, read_heartbeat
from mdsrec.run_paths import RunPaths


class Attempt(NamedTuple):
    """The fencing token of one attempt to train a run."""

    driver: str
    number: int


class RunLease(Lease):
    """The lease of a run, as its driver holds it."""

    def __init__(self, run: str) -> None:
        super().__init__([RunPaths(run).lease])
        self._number = 0

    def content(self) -> Heartbeat:
        return {**super().content(), "attempt": self._number}

    def begin_attempt(self) -> Attempt:
        """Return the token of a new attempt.

        From the next heartbeat that reaches storage on, tokens of earlier attempts are superseded.
        """
        with self.lock, suppress(*files.STORAGE_ERRORS):
            self._number += 1
            if not self.other_holder():
                self.write()
        return Attempt(self.token, self._number)


@contextmanager
def run_lease(run: str, takes_over: bool = False) -> Iterator[RunLease]:
    """Hold the lease of `run`, so that no other driver trains it.

    With `takes_over` the lease is taken from a driver that is alive; that one ends without a write.
    Otherwise InputError names the driver that holds it.
    """
    lease = RunLease(run)
    remedy = (
        f"wait for it, stop it by creating the file {RunPaths(run).stop}, or choose another name"
    )
    with hold(lease, f"training {run}", remedy, takes_over=takes_over):
        yield lease


def is_superseded(run: str, attempt: Attempt) -> bool:
    """Return True if another driver, or a later attempt of the same one, holds the lease."""
    found = read_heartbeat(RunPaths(run).lease)
    if not found:
        return False
    return bool(found["token"] != attempt.driver or found["attempt"] > attempt.number)
