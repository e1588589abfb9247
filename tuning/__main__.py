"""`python -m tuning CONFIG`: a sweep over [tune.space].

`python -m tuning study CONFIG`: models x seeds on one data set, set against each other.
"""

import argparse
import sys
from collections.abc import Sequence

from mdsrec.command import experiment_of, experiment_parser, run_command

SWEEP = "Search the space of the file's section [tune] by validation; the best stays as best.toml"
STUDY = "Train and rank models over seeds on one data set, and write the table that compares them"


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def minutes(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is no time to work in")
    return value


def sweep_parser() -> argparse.ArgumentParser:
    parser = experiment_parser("tuning", f"{SWEEP}.")
    parser.epilog = f"python -m tuning study CONFIG: {STUDY.lower()}; see its --help."
    parser.add_argument(
        "--resume", action="store_true", help="go on with a sweep that ended early or was killed"
    )
    return parser


def study_parser() -> argparse.ArgumentParser:
    parser = experiment_parser("tuning study", f"{STUDY}.")
    parser.add_argument("--models", metavar="NAME", nargs="+", default=[], help="all, unasked")
    parser.add_argument("--seeds", type=positive, default=3, help="0, 1, ... (3 of them)")
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time (1)")
    parser.add_argument("--minutes", type=minutes, help="stop there; the same command goes on")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["study"]:
        compare_models(study_parser().parse_intermixed_args(words[1:]))
        return
    arguments = sweep_parser().parse_intermixed_args(words)
    experiment_of(arguments)
    from tuning.report.results import conclude
    from tuning.sweep import Sweep, run_sweep

    sweep = Sweep(arguments.config, arguments.overrides)
    run_sweep(sweep, arguments.resume)
    print(conclude(sweep))


def compare_models(a: argparse.Namespace) -> None:
    experiment_of(a)
    from tuning.study import study

    print(study(a.config, a.overrides, a.models, a.seeds, a.jobs, a.minutes))


if __name__ == "__main__":
    sys.exit(run_command("tuning", main))
