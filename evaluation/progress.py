"""Progress over users or items: a tqdm bar on a terminal, otherwise a log line at each tenth.

Ray also exports counters for Prometheus: ray_mdsrec_users_total and ray_mdsrec_items_total.
"""

import logging
import time
from typing import Self

from ray.util.metrics import Counter
from tqdm import tqdm

log = logging.getLogger("evaluation")


class Progress:
    """Number of users (or items: `kind`) that a run has processed; `verb` says how (ranked)."""

    def __init__(self, total: int, kind: str, verb: str, run: str) -> None:
        self._total, self._kind, self._verb = total, kind, verb
        self._done = 0
        self._tenths = 0
        self._start = time.monotonic()
        self._counter = Counter(f"mdsrec_{kind}", f"{kind} {verb} by a run", ("run", "done"))
        self._counter.set_default_tags({"run": run, "done": verb})
        # None disables the bar where standard error is not a terminal.
        self._bar = tqdm(
            total=total, desc=f"{kind} {verb}", unit=f" {kind}", disable=None if total else True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def advance(self, count: int) -> None:
        self._done += count
        self._counter.inc(count)
        self._bar.update(count)
        tenths = 10 * self._done // self._total
        if self._bar.disable and tenths > self._tenths:
            self._tenths = tenths
            pace = f"{self._done / self.seconds:,.0f}/s"
            log.info(f"{self._done:,} of {self._total:,} {self._kind} {self._verb}, {pace}")
