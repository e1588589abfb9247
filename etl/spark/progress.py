"""How far a long step is, where there is no terminal for Spark's own bar."""

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

log = logging.getLogger("etl")

EVERY = 10.0  # seconds


@contextmanager
def reporting(line: Callable[[], str | None], every: float = EVERY) -> Iterator[None]:
    """Log `line()` every so many seconds; what ends sooner is not spoken of."""
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(every):
            with suppress(Py4JError, OSError):  # Spark is gone, or a listing failed: no line
                if said := line():
                    log.info("%s", said)

    reporter = threading.Thread(target=report, name="progress", daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()


@contextmanager
def progress(
    name: str, running: Callable[[], SparkSession | None], every: float = EVERY
) -> Iterator[None]:
    """Log `name` and the tasks of its running stages; `running` gives the session once it has
    started.
    """
    if sys.stderr.isatty():
        yield
        return

    def line() -> str | None:
        done, tasks = _tasks(spark) if (spark := running()) else (0, 0)
        return f"{name}: {done} of {tasks} tasks" if tasks else None

    with reporting(line, every):
        yield


def _tasks(spark: SparkSession) -> tuple[int, int]:
    """Tasks that have ended, and all tasks, of the stages that run now."""
    tracker = spark.sparkContext.statusTracker()
    found = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
    stages = [stage for stage in found if stage is not None]
    return sum(s.numCompletedTasks for s in stages), sum(s.numTasks for s in stages)
