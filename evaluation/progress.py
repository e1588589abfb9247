"""Progress over users: a tqdm bar on a terminal, otherwise a log line at each tenth.

Ray also exports a counter for Prometheus: ray_mdsrec_users_total.
"""

import logging
import time
from typing import Self

from ray.util.metrics import Counter
from tqdm import tqdm

log = logging.getLogger("evaluation")


class UserProgress:
    """Number of users that a run has processed; `verb` says how (ranked, served)."""

    def __init__(self, total: int, verb: str, run: str) -> None:
        self._total, self._verb = total, verb
        self._done = 0
        self._tenths = 0
        self._start = time.monotonic()
        self._counter = Counter("mdsrec_users", f"Users {verb} by a run", ("run", "done"))
        self._counter.set_default_tags({"run": run, "done": verb})
        # None disables the bar where standard error is not a terminal.
        self._bar = tqdm(
            total=total, desc=f"users {verb}", unit=" users", disable=None if total else True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def advance(self, users: int) -> None:
        self._done += users
        self._counter.inc(users)
        self._bar.update(users)
        tenths = 10 * self._done // self._total
        if self._bar.disable and tenths > self._tenths:
            self._tenths = tenths
            pace = f"{self._done / self.seconds:,.0f}/s"
            log.info(f"{self._done:,} of {self._total:,} users {self._verb}, {pace}")
