"""`python -m cluster run|submit|preflight CONFIG`: all stages, here or as a job on Ray."""

import argparse
import sys
from collections.abc import Sequence

from cluster.stages import STAGE_COMMANDS, STAGES
from mdsrec.command import (
    SAME_COMMAND,
    WITHOUT_FRESH,
    DistinctValues,
    add_each,
    dispatch,
    each_of,
    experiment_of,
    experiment_parser,
    going_on,
    run_command,
    stage_parser,
)

COMMANDS = {
    "run": "run etl, training and evaluation on this machine",
    "submit": "run them as a job of a Ray cluster and follow its log to the end",
    "preflight": "check every node of the cluster before any work",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a sub-command; its exit code becomes that of the process."""
    dispatch(argv, {"run": run, "submit": submit, "preflight": preflight}, no_command)


def no_command(words: Sequence[str]) -> None:
    """Print the help or the version, or refuse anything else."""
    summary = "Run all stages of an experiment with one command."
    parser = stage_parser("cluster", summary, COMMANDS)
    parser.add_argument("command", metavar="SUB-COMMAND", choices=COMMANDS, help="one of these")
    parser.parse_args(words)


def run(words: Sequence[str]) -> None:
    """Run stages on this machine."""
    parser = experiment_parser("cluster run", "Run etl, training and evaluation of an experiment.")
    _add_stages(parser, list(STAGE_COMMANDS))
    parser.add_argument(
        "--fresh", action="store_true", help="delete the run of this name first, and train it again"
    )
    add_each(parser)
    arguments = parser.parse_intermixed_args(words)
    from cluster.run import run_stages

    with going_on(WITHOUT_FRESH if arguments.fresh else SAME_COMMAND):
        for given in each_of(arguments):
            code = run_stages(given.config, given.overrides, given.fresh, given.stages)
            if code:
                sys.exit(code)


def submit(words: Sequence[str]) -> None:
    """Run stages as a job of a Ray cluster."""
    parser = experiment_parser(
        "cluster submit", "Run the stages as a job of a Ray cluster, after a preflight."
    )
    parser.add_argument(
        "--address", metavar="URL", required=True, help="job server: http://HEAD:8265"
    )
    _add_stages(parser, [*STAGES, "tuning"])
    parser.add_argument(
        "--install",
        choices=["pip", "uv"],
        help="install the packages pinned in constraints.txt on every node (default: use its own)",
    )
    parser.add_argument(
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="environment variable of the job; without =VALUE it has the value it has here",
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="submit the job and do not follow its log"
    )
    given = parser.parse_intermixed_args(words)
    experiment_of(given)
    from cluster import submit as job

    sys.exit(
        job.submit(
            given.config,
            given.overrides,
            given.address,
            given.stages,
            given.install,
            dict(map(job.parse_variable, given.env)),
            wait=not given.no_wait,
        )
    )


def preflight(words: Sequence[str]) -> None:
    """Check the nodes of the cluster; exit code 2 if any check fails."""
    parser = experiment_parser("cluster preflight", "Check every node before any work.")
    experiment = experiment_of(parser.parse_intermixed_args(words))
    from cluster.preflight import check_cluster

    findings = check_cluster(experiment)
    print(findings.table())
    for remark in findings.remarks:
        print(f"preflight: slow: {remark}")
    for failure in findings.failures:
        print(f"preflight: {failure}")
    sys.exit(2 if findings.failures else 0)


def _add_stages(parser: argparse.ArgumentParser, choices: list[str]) -> None:
    parser.add_argument(
        "--stages",
        metavar="STAGE",
        nargs="+",
        action=DistinctValues,
        choices=choices,
        default=list(STAGES),
        help=f"any of {', '.join(choices)} (default: {' '.join(STAGES)})",
    )


if __name__ == "__main__":
    sys.exit(run_command("cluster", main))
