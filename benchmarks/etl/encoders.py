"""Encoding of an experiment's items with 1, 2, ... processes, each time with an empty cache.

The items table must exist (`python -m etl CONFIG`). The seconds do not include the start of the
Spark session; they include loading the encoder.
"""

import argparse
import sys
import tempfile

from benchmarks.measure import DONE, GIB, Reading, Stopwatch, measure, print_result
from etl.features import encoding
from etl.spark import table_io
from etl.spark.session import open_session
from mdsrec import schema, tables
from mdsrec.command import add_experiment
from mdsrec.config import Experiment, SparkConfig
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.text import markdown_table

TASKS_PER_CORE = 4
LIMIT_GIB, LIMIT_SECONDS = 20.0, 3600.0
COLUMNS = ("modality", "items", "processes", "seconds", "items/s", "peak GiB", "outcome")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])


def run(arguments: argparse.Namespace) -> None:
    """Print a table of every modality with an encoder, for each number of processes."""
    experiment = load_experiment(arguments.config, arguments.overrides)
    modalities = [name for name, feature in experiment.features.items() if feature.encoder]
    if not modalities:
        raise InputError(
            f"{arguments.config}: no modality has an encoder: set features.NAME.encoder"
        )
    rows = []
    for modality in modalities:
        for processes in arguments.processes:
            words = [modality, str(processes), arguments.config, *arguments.overrides]
            reading = measure(__name__, words, LIMIT_GIB, LIMIT_SECONDS)
            rows.append(_row(modality, processes, reading))
    print(markdown_table(COLUMNS, rows))


def _row(modality: str, processes: int, reading: Reading) -> list[str]:
    result = reading.result
    numbers = ["-", "-", "-"]
    if reading.outcome == DONE:
        items, seconds = result["items"], result["seconds"]
        numbers = [f"{items:,}", f"{seconds:.1f}", f"{items / seconds:.0f}"]
    peak = f"{reading.peak_bytes / GIB:.2f}"
    return [modality, numbers[0], str(processes), *numbers[1:], peak, reading.outcome]


def encode(experiment: Experiment, modality: str, processes: int) -> None:
    """Encode in this process and print the number of items and the seconds."""
    spark = open_session(SparkConfig(master=f"local[{processes}]", driver_memory="1g"))
    uri = tables.table_uri(experiment.root, "items")
    items = table_io.read_table(spark, uri, schema.ITEMS)
    config = experiment.features[modality]
    with tempfile.TemporaryDirectory(prefix="mdsrec-benchmark-") as cache:
        watch = Stopwatch()
        located = encoding.encode_items(items, config, cache, processes * TASKS_PER_CORE, modality)
        print_result(items=located.locations.count(), **watch.read())


if __name__ == "__main__":
    chosen, cores, path, *overrides = sys.argv[1:]
    encode(load_experiment(path, overrides), chosen, int(cores))
