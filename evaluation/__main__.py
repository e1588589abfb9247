"""`python -m evaluation CONFIG [key=value ...]` and `python -m evaluation compare RUN RUN ...`."""

import argparse
import sys
from collections.abc import Sequence

from mdsrec.command import command_line, experiment_of, experiment_parser, run_command

SUMMARY = "Rank every held-out event against all items; write ranks, metrics.json and report.html."
COMPARE = "python -m evaluation compare RUN RUN ... prints the metrics of runs on the same data."


def compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation compare",
        description="Headline metrics of runs on the same data, side by side.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run's folder: ROOT/runs/NAME")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["compare"]:
        arguments = compare_parser().parse_args(words[1:])
        from evaluation.compare import comparison

        print(comparison(arguments.runs))
        return
    parser = experiment_parser("evaluation", SUMMARY)
    parser.epilog = COMPARE
    arguments = parser.parse_intermixed_args(words)
    experiment = experiment_of(arguments)
    from evaluation.run import evaluate

    print(evaluate(experiment, command_line("cluster run", arguments)))


if __name__ == "__main__":
    sys.exit(run_command("evaluation", main))
