"""`python -m cluster run CONFIG`, `... submit CONFIG --address URL` and `... preflight CONFIG`."""

import argparse
import sys
from collections.abc import Sequence

from cluster.stages import STAGES, WORDS
from mdsrec.command import experiment_of, experiment_parser, run_command

SUMMARY = "All stages of an experiment with one command, here or as a job of a Ray cluster."
COMMANDS = {
    "run": "etl, training and evaluation, here",
    "submit": "the same as a job of a Ray cluster, followed to its end",
    "preflight": "look at every node of the cluster before any work",
}


def cluster_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster", description=SUMMARY)
    listed = "; ".join(f"{name}: {does}" for name, does in COMMANDS.items())
    parser.add_argument("command", choices=COMMANDS, help=listed)
    parser.add_argument("rest", metavar="...", nargs=argparse.REMAINDER, help="see run --help")
    return parser


def run_parser() -> argparse.ArgumentParser:
    parser = experiment_parser("cluster run", "Run etl, training and evaluation on one experiment.")
    _add_stages(parser, list(WORDS))
    parser.add_argument(
        "--fresh", action="store_true", help="train anew, also where the run's name was used before"
    )
    return parser


def submit_parser() -> argparse.ArgumentParser:
    parser = experiment_parser(
        "cluster submit", "Run the stages as a job of a Ray cluster, after a preflight."
    )
    parser.add_argument(
        "--address", metavar="URL", required=True, help="of the head's jobs: http://HEAD:8265"
    )
    _add_stages(parser, [*STAGES, "tuning"])
    parser.add_argument(
        "--install",
        choices=["pip", "uv"],
        help="install the packages that constraints.txt pins on every node (they are there)",
    )
    parser.add_argument(
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="a variable of the job's environment; without =VALUE, as it is here",
    )
    parser.add_argument("--no-wait", action="store_true", help="submit and leave")
    return parser


def _add_stages(parser: argparse.ArgumentParser, choices: list[str]) -> None:
    parser.add_argument(
        "--stages",
        metavar="STAGE",
        nargs="+",
        choices=choices,
        default=list(STAGES),
        help=f"of {', '.join(choices)} ({' '.join(STAGES)})",
    )


def main(argv: Sequence[str] | None = None) -> None:
    arguments = cluster_parser().parse_args(argv)
    command = {"run": run, "submit": submit, "preflight": preflight}[arguments.command]
    code = command(arguments.rest)
    if code:
        sys.exit(code)


def run(words: Sequence[str]) -> int:
    given = run_parser().parse_intermixed_args(words)
    from cluster.run import run_stages

    return run_stages(given.config, given.overrides, given.fresh, given.stages)


def submit(words: Sequence[str]) -> int:
    given = submit_parser().parse_intermixed_args(words)
    experiment_of(given)
    from cluster import submit as job

    variables = dict(map(job.variable, given.env))
    return job.submit(
        given.config,
        given.overrides,
        given.address,
        given.stages,
        given.install,
        variables,
        waits=not given.no_wait,
    )


def preflight(words: Sequence[str]) -> int:
    parser = experiment_parser("cluster preflight", "Look at every node before any work.")
    experiment = experiment_of(parser.parse_intermixed_args(words))
    from cluster.preflight import look

    found = look(experiment)
    print(found.table())
    for failure in found.failures:
        print(f"preflight: {failure}")
    return 2 if found.failures else 0


if __name__ == "__main__":
    sys.exit(run_command("cluster", main))
