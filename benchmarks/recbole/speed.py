"""Training and ranking of RecBole's SASRec, of SASRec here and of the experiment's model: seconds.

Each reading is a process of its own on the same threads, taken in turns; the median counts. Ranking
is that of validation: every user encoded, every item scored.
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

from benchmarks.measure import markdown
from benchmarks.recbole import split
from benchmarks.training.workers import CPU, joined, prefixes_per_second
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from training.data.sequences import SequenceReader
from training.validation import validate

Rates = dict[str, float]  # a second: prefixes that it trains on, users that it ranks for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    split.add_arguments(parser)
    parser.add_argument("--steps", type=int, default=60, help="of training here")
    parser.add_argument("--batches", type=int, default=8, help="of training in RecBole")
    parser.add_argument("--readings", type=int, default=3, help="the median counts")


def run(arguments: argparse.Namespace) -> None:
    config, overrides = arguments.config, arguments.overrides
    sasrec = load_experiment(config, split.as_sasrec(config, overrides))
    whole = load_experiment(config, overrides)
    python, threads = arguments.python, arguments.threads
    with tempfile.TemporaryDirectory() as name:
        split.write_split(sasrec, Path(name))
        settings = split.settings_of(sasrec, Path(name))
        batches = arguments.batches
        contestants: dict[str, Callable[[], Rates]] = {
            "RecBole's SASRec": partial(
                split.peer, python, "speed", settings, threads, batches=batches
            ),
            "SASRec here": partial(ours, sasrec, arguments.steps, threads),
            f"{whole.model.name} here": partial(ours, whole, arguments.steps, threads),
        }
        found: dict[str, list[Rates]] = {name: [] for name in contestants}
        for _ in range(arguments.readings):
            for name, read in contestants.items():
                found[name].append(read())
    print(table(found))


def ours(experiment: Experiment, steps: int, threads: int) -> Rates:
    with tempfile.TemporaryDirectory() as folder:
        spawn(_read, (folder, experiment, steps, threads), nprocs=1)  # type: ignore[no-untyped-call]
        rates: Rates = json.loads((Path(folder) / "rates").read_text())
        return rates


def _read(rank: int, folder: str, experiment: Experiment, steps: int, threads: int) -> None:
    engine = joined(rank, 1, folder, experiment, threads)
    rates = {"train": prefixes_per_second(engine, experiment, steps)}
    reader = SequenceReader(experiment)
    began = time.perf_counter()
    validate(engine, experiment, reader, CPU)
    seconds = time.perf_counter() - began
    rates["rank"] = len(reader.targets(0, reader.num_users, "valid")) / seconds
    (Path(folder) / "rates").write_text(json.dumps(rates))
    distributed.destroy_process_group()


def table(found: dict[str, list[Rates]]) -> str:
    """Medians, and how many times the first's each is."""
    medians = {
        name: {what: statistics.median(rates[what] for rates in readings) for what in readings[0]}
        for name, readings in found.items()
    }
    first = next(iter(medians.values()))
    rows = [
        [
            name,
            *(
                word
                for what in ("train", "rank")
                for word in (f"{rates[what]:,.0f}", f"{rates[what] / first[what]:.1f}")
            ),
        ]
        for name, rates in medians.items()
    ]
    columns = ["training, prefixes/s", "times RecBole", "ranking, users/s", "times RecBole"]
    return markdown(["model", *columns], rows)
