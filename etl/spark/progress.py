"""How far a long step of Spark is, where there is no terminal for Spark's own bar."""

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

log = logging.getLogger("etl")

EVERY = 10.0  # seconds


@contextmanager
def progress(
    name: str, running: Callable[[], SparkSession | None], every: float = EVERY
) -> Iterator[None]:
    """Log `name` and the tasks of its running stages every so many seconds; a step that ends sooner
    is not spoken of. `running` gives the session once it has started.
    """
    if sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    arguments = (name, running, every, ended)
    reporter = threading.Thread(target=_report, args=arguments, name="progress", daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()


def _report(
    name: str,
    running: Callable[[], SparkSession | None],
    every: float,
    ended: threading.Event,
) -> None:
    while not ended.wait(every):
        spark = running()
        try:
            done, tasks = _tasks(spark) if spark else (0, 0)
        except (Py4JError, OSError):  # Spark is gone: the step itself says why
            return
        if tasks:
            log.info("%s: %d of %d tasks", name, done, tasks)


def _tasks(spark: SparkSession) -> tuple[int, int]:
    """Tasks that have ended, and all tasks, of the stages that run now."""
    tracker = spark.sparkContext.statusTracker()
    found = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
    stages = [stage for stage in found if stage is not None]
    return sum(s.numCompletedTasks for s in stages), sum(s.numTasks for s in stages)
