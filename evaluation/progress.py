"""How far work on users is: one moving line on a terminal, a log line each tenth elsewhere, and a
counter that Ray exports for Prometheus, as ray_mdsrec_users_total.
"""

import logging
import sys
import time

from ray.util.metrics import Counter

WIDTH = 30

log = logging.getLogger("evaluation")


class Progress:
    def __init__(self, total: int, done: str, run: str) -> None:
        """`total` users, who are `done` (ranked, served) by a run one after the other."""
        self._total, self._words = total, done
        self._done = 0
        self._tenths = 0
        self._start = time.monotonic()
        self._counter = Counter("mdsrec_users", f"Users {done} by a run", ("run", "done"))
        self._counter.set_default_tags({"run": run, "done": done})

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def advance(self, users: int) -> None:
        self._done += users
        self._counter.inc(users)
        pace = f"{self._done / self.seconds:,.0f}/s"
        line = f"{self._done:,} of {self._total:,} users {self._words}, {pace}"
        if sys.stderr.isatty():
            filled = WIDTH * self._done // self._total
            end = "\n" if self._done == self._total else ""
            sys.stderr.write(f"\r[{'#' * filled:{WIDTH}}] {line} {end}")
            sys.stderr.flush()
        elif 10 * self._done // self._total > self._tenths:
            self._tenths = 10 * self._done // self._total
            log.info(line)
