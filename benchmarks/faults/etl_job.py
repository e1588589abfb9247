"""An ETL process that pauses at the start or before the commit of a table.

It keeps its Spark session for many builds; with the argument `plain` it needs none
(`plain_tables`). A line of JSON on its standard input starts a build:
`{"config": FILE, "table": NAME, "point": "start" | "commit"}`. It prints `paused` when it is there
and goes on at the next line. The last line of a build is `{"code": 0 | 1 | 2, "said": TEXT}`, as
the command would end.
"""

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import etl.run
from benchmarks.faults.plain_tables import build_plain_tables
from etl.run import build_tables
from etl.spark.progress import task_progress
from etl.spark.session import open_session
from mdsrec import tables
from mdsrec.config import Experiment, SparkConfig
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.jobs import lease
from mdsrec.tables import writing

FASTER = 10  # heartbeats, so that a lease of a suspended job expires in 3 s

BuildAll = Callable[[Experiment], object]

_pause: tuple[str, str] | None = None  # the table and the point of the build that runs
_commit = tables.commit


def main() -> None:
    """Build as the lines of the standard input say."""
    lease.HEARTBEAT_SECONDS /= FASTER
    lease.EXPIRY_SECONDS /= FASTER
    lease.SETTLE_SECONDS = 0.1
    etl.run.task_progress = progress_after_pause  # type: ignore[attr-defined, assignment]
    tables.commit = writing.commit = commit_after_pause
    build_all = build_plain_tables if sys.argv[1:] == ["plain"] else on_spark()
    say("ready")
    for line in sys.stdin:
        say(json.dumps(build(json.loads(line), build_all)))


def on_spark() -> BuildAll:
    """Return the ETL, on a session that it keeps."""
    quick = {"spark.driver.defaultJavaOptions": "-XX:TieredStopAtLevel=1"}  # jobs are short
    return partial(
        build_tables,
        spark=open_session(
            SparkConfig(master="local[1]", driver_memory="1g", partitions=2, settings=quick)
        ),
    )


def build(order: dict[str, str], build_all: BuildAll) -> dict[str, Any]:
    """Build the tables of a configuration -> exit code and last words."""
    global _pause
    _pause = (order["table"], order["point"]) if "table" in order else None
    try:
        build_all(load_experiment(order["config"]))
    except InputError as error:
        return {"code": 2, "said": str(error)}
    except Exception:
        return {"code": 1, "said": traceback.format_exc()}
    return {"code": 0, "said": "built"}


@contextmanager
def progress_after_pause(name: str, *arguments: Any) -> Iterator[None]:
    pause_at(name, "start")
    with task_progress(name, *arguments):
        yield


def commit_after_pause(uri: str, *arguments: Any, **named: Any) -> tables.Manifest:
    pause_at(uri.rpartition("/dataset/")[2], "commit")
    return _commit(uri, *arguments, **named)


def pause_at(table: str, point: str) -> None:
    """Wait for a line if the build is to pause here."""
    global _pause
    if _pause == (table, point):
        _pause = None
        say("paused")
        sys.stdin.readline()


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
