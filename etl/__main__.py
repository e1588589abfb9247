"""`python -m etl CONFIG [key=value ...]`: the tables that training reads, from raw files.

`python -m etl status CONFIG [key=value ...]` says which of them stand.
"""

import sys
from collections.abc import Sequence

from mdsrec.command import command_line, experiment_of, experiment_parser, run_command

SUMMARY = "Build the tables under ROOT/dataset from raw files; what stands is not rebuilt."
STATUS = "Say which tables stand under ROOT/dataset and which are to be built; build none."
MORE = (
    "python -m etl status CONFIG says which tables stand; "
    "python -m etl.synthetic FOLDER writes a small raw catalogue to try it on."
)


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["status"]:
        tell_status(words[1:])
        return
    parser = experiment_parser("etl", SUMMARY)
    parser.epilog = MORE
    arguments = parser.parse_intermixed_args(words)
    experiment = experiment_of(arguments)
    from etl.run import build_tables
    from etl.summary import screen

    print(screen(experiment, build_tables(experiment)))
    print(f"next: {command_line('training', arguments)}")


def tell_status(words: Sequence[str]) -> None:
    arguments = experiment_parser("etl status", STATUS).parse_intermixed_args(words)
    experiment = experiment_of(arguments)
    from etl.status import STANDS, screen, standings

    found = standings(experiment)
    print(screen(experiment, found))
    complete = all(table.state == STANDS for table in found)
    print(f"next: {command_line('training' if complete else 'etl', arguments)}")


if __name__ == "__main__":
    sys.exit(run_command("etl", main))
