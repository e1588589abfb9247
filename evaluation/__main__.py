"""`python -m evaluation CONFIG`, `... recommend CONFIG` and `... compare RUN RUN ...`."""

import argparse
import sys
from collections.abc import Sequence

from mdsrec.command import command_line, experiment_of, experiment_parser, run_command

SUMMARY = "Rank every held-out event against all items; write ranks, metrics.json and report.html."
OTHERS = (
    "python -m evaluation recommend CONFIG writes every user's best items and all vectors; "
    "python -m evaluation compare RUN RUN ... sets runs on the same data side by side."
)


def compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation compare",
        description="Runs on the same data, side by side: a table here, all of it in a page.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run's folder: ROOT/runs/NAME")
    parser.add_argument(
        "--out", metavar="HTML", help="where the page goes (comparison.html in the first folder)"
    )
    return parser


def recommend_parser() -> argparse.ArgumentParser:
    parser = experiment_parser(
        "evaluation recommend", "Write the best items of every user, and all vectors, to Parquet."
    )
    parser.add_argument("--top", type=positive, default=10, help="items a user (10)")
    parser.add_argument(
        "--exclude-seen", action="store_true", help="leave out what a user had already"
    )
    parser.add_argument(
        "--users", metavar="FILE", help="user ids, one a line, of those to serve (every user)"
    )
    return parser


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of items")
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["compare"]:
        arguments = compare_parser().parse_args(words[1:])
        from evaluation.compare import comparison

        print(comparison(arguments.runs, arguments.out))
        return
    if words[:1] == ["recommend"]:
        arguments = recommend_parser().parse_intermixed_args(words[1:])
        experiment = experiment_of(arguments)
        from evaluation.recommend import Options, recommend, users_named

        users = users_named(experiment, arguments.users) if arguments.users else None
        print(recommend(experiment, Options(arguments.top, arguments.exclude_seen, users)))
        return
    parser = experiment_parser("evaluation", SUMMARY)
    parser.epilog = OTHERS
    arguments = parser.parse_intermixed_args(words)
    experiment = experiment_of(arguments)
    from evaluation.run import evaluate

    print(evaluate(experiment, command_line("cluster run", arguments)))


if __name__ == "__main__":
    sys.exit(run_command("evaluation", main))
