"""Speed of training and ranking of RecBole's SASRec, of SASRec here and of the experiment's model.

Readings are taken in turns, each in a new process with the same number of threads, and the median
is printed. Ranking is a validation: every user is encoded, and every item is scored.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import distributed
from torch.multiprocessing.spawn import spawn

from benchmarks.recbole import split
from benchmarks.training.workers import CPU, prefixes_per_second, start_engine
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.text import markdown_table
from training.data.sequences import SequenceReader
from training.validation import validate

Rates = dict[str, float]
"""`train`: prefixes per second, and `rank`: users per second."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    split.add_arguments(parser)
    parser.add_argument("--steps", type=int, default=60, help="of training here (default: 60)")
    parser.add_argument("--batches", type=int, default=8, help="of training in RecBole (8)")
    parser.add_argument("--readings", type=int, default=3, help="the median counts (default: 3)")


def run(arguments: argparse.Namespace) -> None:
    config, overrides = arguments.config, arguments.overrides
    sasrec = load_experiment(config, split.sasrec_overrides(config, overrides))
    whole = load_experiment(config, overrides)
    python, threads = arguments.python, arguments.threads
    with tempfile.TemporaryDirectory() as name:
        split.write_split(sasrec, Path(name))
        settings = split.settings_of(sasrec, Path(name))
        batches = arguments.batches
        contestants: dict[str, Callable[[], Rates]] = {
            "RecBole's SASRec": partial(
                split.run_recbole, python, "speed", settings, threads, batches=batches
            ),
            "SASRec here": partial(rates_here, sasrec, arguments.steps, threads),
            f"{whole.model.name} here": partial(rates_here, whole, arguments.steps, threads),
        }
        found: dict[str, list[Rates]] = {name: [] for name in contestants}
        for _ in range(arguments.readings):
            for name, measure_rates in contestants.items():
                found[name].append(measure_rates())
    print(table(found))


def rates_here(experiment: Experiment, steps: int, threads: int) -> Rates:
    """Return the rates of the experiment's model, measured in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_measure_rates, (folder, experiment, steps, threads), nprocs=1)  # type: ignore[no-untyped-call]
        rates: Rates = json.loads((Path(folder) / "rates").read_text())
        return rates


def _measure_rates(
    rank: int, folder: str, experiment: Experiment, steps: int, threads: int
) -> None:
    engine = start_engine(rank, 1, folder, experiment, threads)
    rates = {"train": prefixes_per_second(engine, experiment, steps)}
    reader = SequenceReader(experiment)
    started = time.perf_counter()
    validate(engine, experiment, reader, CPU)
    seconds = time.perf_counter() - started
    rates["rank"] = len(reader.targets(0, reader.num_users, "valid")) / seconds
    (Path(folder) / "rates").write_text(json.dumps(rates))
    distributed.destroy_process_group()


def table(found: dict[str, list[Rates]]) -> str:
    """Return the medians, and each relative to the first contestant's."""
    medians = {
        name: {key: statistics.median(rates[key] for rates in readings) for key in readings[0]}
        for name, readings in found.items()
    }
    first = next(iter(medians.values()))
    rows = [
        [
            name,
            *(
                cell
                for key in ("train", "rank")
                for cell in (f"{rates[key]:,.0f}", f"{rates[key] / first[key]:.1f}")
            ),
        ]
        for name, rates in medians.items()
    ]
    columns = ["training, prefixes/s", "times RecBole", "ranking, users/s", "times RecBole"]
    return markdown_table(["model", *columns], rows)
