"""A line at least every 30 s from a command whose output is not a terminal.

Whoever reads the log of a job then knows that it is running. A line of any other kind counts too.
"""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mdsrec.text import duration

LONGEST_SILENCE = 30.0  # seconds

log = logging.getLogger("mdsrec")


class Heartbeat(logging.Handler):
    """Logs a line when no other has been logged for a while; `seconds` is that while."""

    def __init__(self, seconds: float = LONGEST_SILENCE) -> None:
        super().__init__()
        self._seconds = seconds
        self._started = self._last = 0.0
        self._paused, self._ended = False, threading.Event()
        self._stage = self._step = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Note that a line was logged."""
        self.note_line()

    def note_line(self) -> None:
        """Note a line that was written without a logger, such as one of a worker."""
        self._last = time.monotonic()

    def begin(self, step: str) -> None:
        """Name the step that runs from now on, as `loading the run`."""
        self._step = step

    @contextmanager
    def within(self, step: str) -> Iterator[None]:
        """Name a part of the step, as `starting Ray`, until the block ends."""
        before, self._step = self._step, step
        try:
            yield
        finally:
            self._step = before

    @contextmanager
    def beating(self, stage: str) -> Iterator[None]:
        """Log lines about `stage` until the block ends. Within another block it is its stage."""
        if self in logging.getLogger().handlers:
            before, self._stage, self._step = self._stage, stage, "importing packages"
            try:
                yield
            finally:
                self._stage = before
            return
        thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._stage, self._step = stage, "importing packages"
        self._ended.clear()
        self._started = self._last = time.monotonic()
        logging.getLogger().addHandler(self)
        thread.start()
        try:
            yield
        finally:
            logging.getLogger().removeHandler(self)
            self._ended.set()
            thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Be silent while another process writes the lines."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False
            self.note_line()

    def _beat(self) -> None:
        while not self._ended.wait(self._last + self._seconds - time.monotonic()):
            if time.monotonic() - self._last < self._seconds:
                continue
            if not (self._paused or sys.stderr.isatty()):
                spent = duration(time.monotonic() - self._started)
                log.info("%s is still running: %s, %s so far", self._stage, self._step, spent)
            self.note_line()


heartbeat = Heartbeat()
"""That of this process; `run_command` starts it."""
