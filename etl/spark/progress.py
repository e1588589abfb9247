"""The progress of a long step: one line that is drawn again on a terminal, log lines elsewhere."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession
from tqdm import tqdm

from mdsrec.text import duration

log = logging.getLogger("etl")

LOG_INTERVAL = 10.0  # seconds
DRAW_INTERVAL = 0.5  # seconds

Line = Callable[[], str | None]

_steps: list[Line] = []  # running steps; only the last one, which is inside the others, is shown
_bars: list["tqdm[None]"] = []  # that of the first step on a terminal; the steps inside it share it


@contextmanager
def step_progress(line: Line, every: float = LOG_INTERVAL) -> Iterator[None]:
    """Show `line()` until the block ends: log it every `every` seconds, or draw it on a terminal.

    None shows nothing. The first line comes after `every` seconds, so a short step logs nothing.
    """
    ended, started = threading.Event(), time.monotonic()
    is_first = not _steps
    if is_first and sys.stderr.isatty():
        _bars.append(tqdm(bar_format="{desc}", leave=False, dynamic_ncols=True))
    bar = _bars[0] if _bars else None

    def show_lines() -> None:
        while not ended.wait(DRAW_INTERVAL if bar is not None else every):
            # Spark has stopped, or the storage could not be listed: this line is left out.
            with suppress(Py4JError, OSError):
                if _steps[-1] is not line or not (text := line()):
                    continue
                if bar is None:
                    log.info("%s", text)
                else:
                    bar.set_description_str(f"{text}, {duration(time.monotonic() - started)}")

    thread = threading.Thread(target=show_lines, name="progress", daemon=True)
    _steps.append(line)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _steps.remove(line)
        if bar is not None and is_first:
            _bars.pop().close()


@contextmanager
def task_progress(
    name: str, spark_if_started: Callable[[], SparkSession | None], every: float = LOG_INTERVAL
) -> Iterator[None]:
    """Show how many tasks of the running Spark stages are done, as `items: 3 of 8 tasks`."""

    def line() -> str | None:
        done, total = _count_tasks(spark) if (spark := spark_if_started()) else (0, 0)
        return f"{name}: {done} of {total} tasks" if total else None

    with step_progress(line, every):
        yield


def _count_tasks(spark: SparkSession) -> tuple[int, int]:
    """Return the number of completed tasks and of all tasks in the running stages."""
    tracker = spark.sparkContext.statusTracker()
    found = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
    stages = [stage for stage in found if stage is not None]
    return sum(s.numCompletedTasks for s in stages), sum(s.numTasks for s in stages)
