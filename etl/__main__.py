"""`python -m etl CONFIG`: build the tables. `etl status CONFIG`: show their state.

`etl inspect FILE ...`: show the columns of the user's own files.
"""

import sys
from collections.abc import Sequence

from mdsrec.command import (
    command_line,
    dispatch,
    experiment_of,
    experiment_parser,
    run_command,
    spelled,
    stage_parser,
)

BUILD = "Build the tables below ROOT/dataset from raw files. Tables that are up to date are kept."
STATUS = "Show which tables below ROOT/dataset are up to date. Nothing is built."
INSPECT = "Show the columns of your files, from their first rows, and a section [input] for them."
COMMANDS = {
    "status": "show which tables are up to date",
    "inspect": "show the columns of your own files, and a section [input] for them",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run `status`, `inspect` or, without a sub-command, the ETL."""
    dispatch(argv, {"status": status, "inspect": inspect}, build)


def build(words: Sequence[str]) -> None:
    """Build the tables of an experiment."""
    parser = experiment_parser("etl", BUILD, COMMANDS)
    demo = " ".join(spelled("etl.synthetic"))
    parser.epilog = f"`{demo}` writes a small raw catalogue to try things out."
    arguments = parser.parse_intermixed_args(words)
    experiment = experiment_of(arguments)
    from etl.run import build_with_reasons
    from etl.status import build_report, rejects_report, undescribed_items

    built = build_with_reasons(experiment)
    manifests = built.manifests
    print(build_report(experiment, built))
    left_out = undescribed_items(experiment, manifests["items"])
    for line in [*left_out, *rejects_report(experiment, manifests["rejects"])]:
        print(line)
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


def inspect(words: Sequence[str]) -> None:
    """Show what files of the user's hold."""
    parser = stage_parser("etl inspect", INSPECT)
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="CSV, TSV, JSON lines or Parquet; or a folder"
    )
    parser.add_argument("--separator", help="of CSV columns; recognized unless it is given")
    arguments = parser.parse_args(words)
    from etl.tabular.proposal import inspect_files

    print(inspect_files(arguments.files, arguments.separator))


if __name__ == "__main__":
    sys.exit(run_command("etl", main))
