"""`python -m etl CONFIG [key=value ...]`: the tables that training reads, from raw files."""

import sys
from collections.abc import Sequence

from mdsrec.command import command_line, experiment_of, experiment_parser, run_command

SUMMARY = "Build the tables under ROOT/dataset from raw files; what stands is not rebuilt."
SYNTHETIC = "python -m etl.synthetic FOLDER writes a small raw catalogue to try it on."


def main(argv: Sequence[str] | None = None) -> None:
    parser = experiment_parser("etl", SUMMARY)
    parser.epilog = SYNTHETIC
    arguments = parser.parse_intermixed_args(argv)
    experiment = experiment_of(arguments)
    from etl.run import build_tables
    from etl.summary import screen

    print(screen(experiment, build_tables(experiment)))
    print(f"next: {command_line('training', arguments)}")


if __name__ == "__main__":
    sys.exit(run_command("etl", main))
