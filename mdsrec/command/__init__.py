"""Commands: what all stages share, and the console script `mdsrec`."""

from mdsrec.command.names import spelled
from mdsrec.command.stage import (
    SAME_COMMAND,
    WITHOUT_FRESH,
    Command,
    DistinctValues,
    add_each,
    add_experiment,
    command_line,
    dispatch,
    each_of,
    experiment_of,
    experiment_parser,
    going_on,
    minutes,
    path,
    positive_int,
    run_command,
    stage_parser,
)

__all__ = [
    "SAME_COMMAND",
    "WITHOUT_FRESH",
    "Command",
    "DistinctValues",
    "add_each",
    "add_experiment",
    "command_line",
    "dispatch",
    "each_of",
    "experiment_of",
    "experiment_parser",
    "going_on",
    "minutes",
    "path",
    "positive_int",
    "run_command",
    "spelled",
    "stage_parser",
]
