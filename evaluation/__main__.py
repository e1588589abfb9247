"""`python -m evaluation CONFIG`: rank and report a run. Sub-commands: `append`, `recommend`,
`export`, `compare`.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from mdsrec.command import (
    DistinctValues,
    add_each,
    command_line,
    dispatch,
    each_of,
    experiment_of,
    experiment_parser,
    path,
    positive_int,
    run_command,
    stage_parser,
)
from mdsrec.run_paths import check_has_weights

WORSE = 3  # exit code of a gate that a run does not pass
RANK = "Rank every held-out event against all items; write ranks, metrics.json and report.html."
COMMANDS = {
    "append": "give rows to items that a finished run was not trained on",
    "recommend": "write every user's best items, and all vectors",
    "export": "write a folder that recommends by itself, without Ray and Spark",
    "compare": "compare runs on the same data",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a sub-command or, without one, the evaluation of a run."""
    commands = {"append": append, "compare": compare, "export": export, "recommend": recommend}
    dispatch(argv, commands, rank)


def rank(words: Sequence[str]) -> None:
    """Rank the held-out events of an experiment and write its report."""
    parser = experiment_parser("evaluation", RANK, COMMANDS)
    add_each(parser)
    for arguments in each_of(parser.parse_intermixed_args(words)):
        _rank(arguments)


def _rank(arguments: argparse.Namespace) -> None:
    experiment = experiment_of(arguments)
    check_has_weights(experiment)
    from evaluation.run import evaluate

    print(evaluate(experiment, partial(command_line, "cluster run", arguments)))


def append(words: Sequence[str]) -> None:
    """Append rows of items to a finished run."""
    parser = experiment_parser(
        "evaluation append",
        "Give rows to items that a finished run was not trained on: each is the mean of its "
        "nearest trained neighbors. All other rows stay. The run is then evaluated, served and "
        "exported with them, on the tables as they are now.",
    )
    parser.add_argument("--undo", action="store_true", help="delete the appended rows")
    arguments = parser.parse_intermixed_args(words)
    experiment = experiment_of(arguments)
    check_has_weights(experiment)
    from evaluation.serving.append import append as append_rows
    from evaluation.serving.append import undo

    if arguments.undo:
        print(undo(experiment))
    else:
        print(append_rows(experiment))
        print(f"next        {command_line('evaluation', arguments)}")


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
        "--category", metavar="NAME", help="recommend only items of this category of the input"
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
    from evaluation.stored.categories import check_category
    from mdsrec.jobs.promises import promised
    from mdsrec.run_paths import run_fingerprints

    if arguments.category:
        check_category(experiment.root, arguments.category)
    options = Options(arguments.top, arguments.exclude_seen, category=arguments.category)
    if arguments.histories:
        print(recommend_histories(experiment, arguments.histories, options))
        return
    with promised(run_fingerprints(experiment)):  # users are numbered in `sequences`
        users = read_user_file(experiment, arguments.users) if arguments.users else None
        print(write_recommendations(experiment, options._replace(users=users)))


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
    parser.add_argument(
        "--no-worse-than",
        metavar="RUN",
        type=path,
        help="gate: end with exit code 3 if the first run is clearly worse than this one",
    )
    parser.add_argument("--metric", metavar="NAME@N", help="metric of the gate (default: ndcg@10)")
    arguments = parser.parse_intermixed_args(words)
    if arguments.metric and not arguments.no_worse_than:
        parser.error("--metric is that of a gate: give --no-worse-than RUN too")
    from evaluation.compare import GATE_METRIC, compare_runs, compare_with_gate

    if not arguments.no_worse_than:
        print(compare_runs(arguments.runs, arguments.out))
        return
    metric = arguments.metric or GATE_METRIC
    gated = compare_with_gate(arguments.runs, arguments.no_worse_than, metric, arguments.out)
    print(gated.screen)
    if gated.is_worse:
        sys.exit(WORSE)


if __name__ == "__main__":
    sys.exit(run_command("evaluation", main))
