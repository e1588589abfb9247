"""`python -m evaluation CONFIG`: rank and report a run. Sub-commands: `recommend`, `export`,
`compare`.
"""

import sys
from collections.abc import Sequence
from functools import partial

from mdsrec.command import (
    DistinctValues,
    command_line,
    dispatch,
    experiment_of,
    experiment_parser,
    path,
    positive_int,
    run_command,
    stage_parser,
)
from mdsrec.run_paths import check_has_weights

RANK = "Rank every held-out event against all items; write ranks, metrics.json and report.html."
COMMANDS = {
    "recommend": "write every user's best items, and all vectors",
    "export": "write a folder that recommends by itself, without Ray and Spark",
    "compare": "compare runs on the same data",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a sub-command or, without one, the evaluation of a run."""
    dispatch(argv, {"compare": compare, "export": export, "recommend": recommend}, rank)


def rank(words: Sequence[str]) -> None:
    """Rank the held-out events of an experiment and write its report."""
    parser = experiment_parser("evaluation", RANK, COMMANDS)
    arguments = parser.parse_intermixed_args(words)
    experiment = experiment_of(arguments)
    check_has_weights(experiment)
    from evaluation.run import evaluate

    print(evaluate(experiment, partial(command_line, "cluster run", arguments)))


def recommend(words: Sequence[str]) -> None:
    """Write recommendations and vectors."""
    parser = experiment_parser(
        "evaluation recommend", "Write every user's best items, and all vectors, as Parquet."
    )
    parser.add_argument("--top", type=positive_int, default=10, help="items per user (default: 10)")
    parser.add_argument(
        "--exclude-seen", action="store_true", help="leave out items that the user already had"
    )
    parser.add_argument(
        "--users",
        metavar="FILE",
        type=path,
        help="file with one user id per line (default: every user)",
    )
    parser.add_argument(
        "--histories",
        metavar="FILE",
        type=path,
        help="users who were not in the data, instead of those who were: .jsonl or .parquet with "
        "user_id and item_ids, or .csv with user_id and item_id",
    )
    arguments = parser.parse_intermixed_args(words)
    if arguments.users and arguments.histories:
        parser.error("--users and --histories exclude each other")
    experiment = experiment_of(arguments)
    check_has_weights(experiment)
    from evaluation.recommend import Options, read_user_file, recommend_histories
    from evaluation.recommend import recommend as write_recommendations
    from mdsrec.jobs.promises import promised
    from mdsrec.run_paths import run_fingerprints

    if arguments.histories:
        options = Options(arguments.top, arguments.exclude_seen)
        print(recommend_histories(experiment, arguments.histories, options))
        return
    with promised(run_fingerprints(experiment)):  # users are numbered in `sequences`
        users = read_user_file(experiment, arguments.users) if arguments.users else None
        options = Options(arguments.top, arguments.exclude_seen, users)
        print(write_recommendations(experiment, options))


def export(words: Sequence[str]) -> None:
    """Export a run."""
    parser = stage_parser(
        "evaluation export",
        "Write a folder that is enough to recommend: weights, graphs, ids and titles of items, "
        "configuration and a model card. Python loads it with Recommender.load(DIR).",
    )
    parser.add_argument("run", metavar="RUN", type=path, help="folder of a run: ROOT/runs/NAME")
    parser.add_argument("folder", metavar="DIR", type=path, help="folder to write")
    arguments = parser.parse_args(words)
    from evaluation.serving.export import export as write_export

    print(write_export(arguments.run, arguments.folder))


def compare(words: Sequence[str]) -> None:
    """Compare evaluated runs."""
    parser = stage_parser(
        "evaluation compare", "Compare runs on the same data: a table on the screen, and a page."
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=path,
        action=DistinctValues,
        help="folder of a run: ROOT/runs/NAME",
    )
    parser.add_argument(
        "--out",
        metavar="HTML",
        type=path,
        help="page to write (default: comparison.html in the first run)",
    )
    arguments = parser.parse_intermixed_args(words)
    from evaluation.compare import compare_runs

    print(compare_runs(arguments.runs, arguments.out))


if __name__ == "__main__":
    sys.exit(run_command("evaluation", main))
