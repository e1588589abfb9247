"""`python -m etl CONFIG`: build the tables. `python -m etl status CONFIG`: show their state."""

import sys
from collections.abc import Sequence

from mdsrec.command import (
    command_line,
    dispatch,
    experiment_of,
    experiment_parser,
    run_command,
    spelled,
)

BUILD = "Build the tables below ROOT/dataset from raw files. Tables that are up to date are kept."
STATUS = "Show which tables below ROOT/dataset are up to date. Nothing is built."
COMMANDS = {"status": "show which tables are up to date"}


def main(argv: Sequence[str] | None = None) -> None:
    """Run `status` or, without a sub-command, the ETL."""
    dispatch(argv, {"status": status}, build)


def build(words: Sequence[str]) -> None:
    """Build the tables of an experiment."""
    parser = experiment_parser("etl", BUILD, COMMANDS)
    demo = " ".join(spelled("etl.synthetic"))
    parser.epilog = f"`{demo}` writes a small raw catalogue to try things out."
    arguments = parser.parse_intermixed_args(words)
    experiment = experiment_of(arguments)
    from etl.run import build_tables
    from etl.status import build_report

    print(build_report(experiment, build_tables(experiment)))
    print(f"next: {command_line('training', arguments)}")


def status(words: Sequence[str]) -> None:
    """Show the state of the tables of an experiment."""
    arguments = experiment_parser("etl status", STATUS).parse_intermixed_args(words)
    experiment = experiment_of(arguments)
    from etl.status import TableState, status_report, table_statuses

    statuses = table_statuses(experiment)
    print(status_report(experiment, statuses))
    complete = all(table.state == TableState.UP_TO_DATE for table in statuses)
    print(f"next: {command_line('training' if complete else 'etl', arguments)}")


if __name__ == "__main__":
    sys.exit(run_command("etl", main))
