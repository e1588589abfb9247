"""Launches, waits and copies of a training step on a pretended GPU: `python -m
benchmarks.gpu_harness CONFIG`. No GPU is needed.

A row is the second step of a model on the tables of CONFIG, because the first one makes Adam's
state. Dropout is 0, because it has more kernels on a CPU.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_harness.stages import new_model, one_rank, second_step_on_gpu
from mdsrec.command import experiment_parser, positive_int, run_command
from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from, load_experiment
from mdsrec.config.models import sections
from mdsrec.text import markdown_table

PROG = "benchmarks.gpu_harness"
WITHOUT_DROPOUT = ("model.dropout=0.0", "model.item_mask=0.0")
NAMES = [name for name in sections() if name != "transitions"]
PARTS = ("forward", "backward", "optimizer")
HEADER = ["model", "prefixes", *PARTS, "waits", "pageable copies", "pinned copies"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = experiment_parser(PROG, __doc__ or "")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--prefixes", nargs="+", type=positive_int, default=[512])
    arguments = parser.parse_intermixed_args(argv)
    experiment = load_experiment(arguments.config, [*arguments.overrides, *WITHOUT_DROPOUT])
    with tempfile.TemporaryDirectory() as folder, one_rank(str(Path(folder) / "rendezvous")):
        rows = [_row(experiment, name, p) for name in arguments.models for p in arguments.prefixes]
    print(markdown_table(HEADER, rows))


def _row(experiment: Experiment, name: str, prefixes: int) -> list[str]:
    experiment = _with_model(experiment, name, prefixes)
    counts_of = second_step_on_gpu(new_model(experiment), experiment)
    launches = [str(counts_of[part].launches.total()) for part in PARTS]
    waits = sum(counts.waits.total() for counts in counts_of.values())
    copies = sum(counts.copies.total() for counts in counts_of.values())
    pageable = sum(counts.num_pageable for counts in counts_of.values())
    return [name, f"{prefixes:,}", *launches, str(waits), str(pageable), str(copies - pageable)]


def _with_model(experiment: Experiment, name: str, prefixes: int) -> Experiment:
    """Return the experiment with a model of this name, and its keys that this model has too."""
    content = experiment.resolved()
    known = sections()[name].model_fields
    own = {key: value for key, value in content["model"].items() if key in known}
    content["model"] = {**own, "name": name}
    content["train"]["batch_size"] = prefixes
    return experiment_from(content, source=PROG)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
