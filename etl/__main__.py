"""`python -m etl CONFIG`: build the tables. `etl status CONFIG`: show their state.

`etl clean CONFIG`: delete former versions of tables. `etl inspect FILE ...`: show the columns of
the user's own files.
"""

import argparse
import sys
from collections.abc import Sequence

from mdsrec.command import (
    add_each,
    command_line,
    dispatch,
    each_of,
    experiment_of,
    experiment_parser,
    run_command,
    spelled,
    stage_parser,
)

BUILD = "Build the tables below ROOT/dataset from raw files. Tables that are up to date are kept."
STATUS = "Show which tables below ROOT/dataset are up to date. Nothing is built."
CLEAN = (
    "Delete former versions of tables, parsed lines of files that are not in the input, and what "
    "killed builds left. Runs that need a former version can no longer be evaluated."
)
INSPECT = "Show the columns of your files, from their first rows, and a section [input] for them."
COMMANDS = {
    "status": "show which tables are up to date",
    "clean": "delete former versions of tables, and what killed builds left",
    "inspect": "show the columns of your own files, and a section [input] for them",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run `status`, `clean`, `inspect` or, without a sub-command, the ETL."""
    dispatch(argv, {"status": status, "clean": clean, "inspect": inspect}, build)


def build(words: Sequence[str]) -> None:
    """Build the tables of an experiment."""
    parser = experiment_parser("etl", BUILD, COMMANDS)
    demo = " ".join(spelled("etl.synthetic"))
    parser.epilog = f"`{demo}` writes a small raw catalogue to try things out."
    add_each(parser)
    for arguments in each_of(parser.parse_intermixed_args(words)):
        _build(arguments)


def _build(arguments: argparse.Namespace) -> None:
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


def clean(words: Sequence[str]) -> None:
    """Delete what is not needed any more."""
    parser = experiment_parser("etl clean", CLEAN)
    parser.add_argument(
        "--keep",
        metavar="RUN",
        nargs="+",
        action="extend",
        default=[],
        help="runs whose tables stay: names, or folders ROOT/runs/NAME",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be deleted")
    arguments = parser.parse_intermixed_args(words)
    experiment = experiment_of(arguments)
    from etl.clean import clean as clean_root

    print(clean_root(experiment, arguments.keep, arguments.dry_run))


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
