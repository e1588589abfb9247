"""Encoding an experiment's items with 1, 2, ... executor processes, each reading in a new cache.

The items table must stand: `python -m etl CONFIG` first. The session starts before the clock, the
model is loaded after it.
"""

import argparse
import sys
import tempfile

from benchmarks.measure import DONE, GIB, Reading, Stopwatch, answer, markdown, measured
from etl.features import encoding
from etl.spark import table_io
from etl.spark.session import open_session
from mdsrec import schema, tables
from mdsrec.config import Experiment, SparkConfig
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError

TASKS_A_CORE = 4
LIMIT_GIB, LIMIT_SECONDS = 20.0, 3600.0
COLUMNS = ("modality", "items", "processes", "seconds", "items/s", "peak GiB", "outcome")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="the experiment's TOML file")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])


def run(arguments: argparse.Namespace) -> None:
    """Print a table: every modality with an encoder, for each number of processes."""
    words = [arguments.config, *arguments.overrides]
    experiment = load_experiment(words[0], words[1:])
    encoded = [name for name, feature in experiment.features.items() if feature.encoder]
    if not encoded:
        raise InputError(f"{arguments.config}: no modality has an encoder")
    rows = []
    for modality in encoded:
        for processes in arguments.processes:
            command = [modality, str(processes), *words]
            reading = measured(__name__, command, LIMIT_GIB, LIMIT_SECONDS)
            rows.append(_row(modality, processes, reading))
    print(markdown(COLUMNS, rows))


def _row(modality: str, processes: int, reading: Reading) -> list[str]:
    found = reading.answer
    numbers = ["-", "-", "-"]
    if reading.outcome == DONE:
        items, seconds = found["items"], found["seconds"]
        numbers = [f"{items:,}", f"{seconds:.1f}", f"{items / seconds:.0f}"]
    peak = f"{reading.peak_bytes / GIB:.2f}"
    return [modality, numbers[0], str(processes), *numbers[1:], peak, reading.outcome]


def encode(experiment: Experiment, modality: str, processes: int) -> None:
    spark = open_session(SparkConfig(master=f"local[{processes}]", driver_memory="1g"))
    uri = tables.table_uri(experiment.root, "items")
    items = table_io.read_table(spark, uri, schema.ITEMS)
    config = experiment.features[modality]
    with tempfile.TemporaryDirectory(prefix="mdsrec-benchmark-") as cache:
        watch = Stopwatch()
        located = encoding.encode_items(items, config, cache, processes * TASKS_A_CORE, modality)
        answer(items=located.locations.count(), **watch.read())


if __name__ == "__main__":
    chosen, cores, path, *overrides = sys.argv[1:]
    encode(load_experiment(path, overrides), chosen, int(cores))
