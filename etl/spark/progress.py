"""Log lines with the progress of a long step, for logs without Spark's own progress bar."""

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

log = logging.getLogger("etl")

LOG_INTERVAL = 10.0  # seconds


@contextmanager
def periodic_log(line: Callable[[], str | None], every: float = LOG_INTERVAL) -> Iterator[None]:
    """Log `line()` every `every` seconds until the block ends; None logs nothing.

    The first line comes after `every` seconds, so a short step logs nothing.
    """
    ended = threading.Event()

    def log_lines() -> None:
        while not ended.wait(every):
            # Spark has stopped, or the storage could not be listed: this line is left out.
            with suppress(Py4JError, OSError):
                if text := line():
                    log.info("%s", text)

    thread = threading.Thread(target=log_lines, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def task_progress(
    name: str, spark_if_started: Callable[[], SparkSession | None], every: float = LOG_INTERVAL
) -> Iterator[None]:
    """Log how many tasks of the running Spark stages are done, as `items: 3 of 8 tasks`.

    On a terminal nothing is logged: Spark draws its own bar there.
    """
    if sys.stderr.isatty():
        yield
        return

    def line() -> str | None:
        done, total = _count_tasks(spark) if (spark := spark_if_started()) else (0, 0)
        return f"{name}: {done} of {total} tasks" if total else None

    with periodic_log(line, every):
        yield


def _count_tasks(spark: SparkSession) -> tuple[int, int]:
    """Return the number of completed tasks and of all tasks in the running stages."""
    tracker = spark.sparkContext.statusTracker()
    found = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
    stages = [stage for stage in found if stage is not None]
    return sum(s.numCompletedTasks for s in stages), sum(s.numTasks for s in stages)
