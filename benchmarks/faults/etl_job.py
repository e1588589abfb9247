"""An ETL process that pauses at the start or before the commit of a table.

It keeps its Spark session for many builds. A line of JSON on its standard input starts a build:
`{"config": FILE, "table": NAME, "point": "start" | "commit"}`. It prints `paused` when it is there
and goes on at the next line. The last line of a build is `{"code": 0 | 1 | 2, "said": TEXT}`, as
the command would end.
"""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import etl.run
from etl.run import build_tables
from etl.spark.progress import task_progress
from etl.spark.session import open_session
from mdsrec import tables
from mdsrec.config import SparkConfig
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.jobs import lease

FASTER = 20  # heartbeats, so that a lease of a suspended job expires in 1.5 s

_pause: tuple[str, str] | None = None  # the table and the point of the build that runs
_commit = tables.commit


def main() -> None:
    """Build as the lines of the standard input say."""
    lease.HEARTBEAT_SECONDS /= FASTER
    lease.EXPIRY_SECONDS /= FASTER
    lease.SETTLE_SECONDS = 0.1
    etl.run.task_progress = progress_after_pause  # type: ignore[assignment]
    tables.commit = commit_after_pause
    quick = {"spark.driver.defaultJavaOptions": "-XX:TieredStopAtLevel=1"}  # jobs are short
    session = open_session(
        SparkConfig(master="local[1]", driver_memory="1g", partitions=2, settings=quick)
    )
    say("ready")
    for line in sys.stdin:
        say(json.dumps(build(json.loads(line), session)))


def build(order: dict[str, str], session: Any) -> dict[str, Any]:
    """Build the tables of a configuration -> exit code and last words."""
    global _pause
    _pause = (order["table"], order["point"]) if "table" in order else None
    try:
        build_tables(load_experiment(order["config"]), session)
    except InputError as error:
        return {"code": 2, "said": str(error)}
    except Exception:
        return {"code": 1, "said": traceback.format_exc()}
    return {"code": 0, "said": "built"}


@contextmanager
def progress_after_pause(name: str, spark: Any) -> Iterator[None]:
    pause_at(name, "start")
    with task_progress(name, spark):
        yield


def commit_after_pause(uri: str, *arguments: Any) -> tables.Manifest:
    pause_at(uri.rpartition("/dataset/")[2], "commit")
    return _commit(uri, *arguments)


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
