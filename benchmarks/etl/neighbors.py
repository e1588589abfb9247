"""Neighbors of many vectors: ours on Spark, exact search, HNSW and NN-descent.

Every contestant is a process with all cores of this machine. The recall of each is measured in the
same way, on QUERIES items, with exact search as the reference.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.etl import vectors
from benchmarks.measure import DONE, GIB, Reading, measure, print_result
from etl.builders.graphs import GraphBuilder
from etl.builders.workspace import Workspace
from etl.spark.blocks import block_ranges
from etl.spark.vector_table import ItemTable, Vectors, VectorTable
from mdsrec import tables
from mdsrec.arrays import Ints
from mdsrec.config import Experiment
from mdsrec.schema import NEIGHBORS
from mdsrec.table_names import neighbors_name
from mdsrec.text import markdown_table

QUERIES = 500
COUNT = 50
LIMIT_GIB, LIMIT_SECONDS = 20.0, 5400.0
COLUMNS = [
    "vectors",
    "items",
    "contestant",
    "seconds",
    "recall@10",
    "recall@50",
    "peak of one process",
    "outcome",
]
HNSW = (12, 60, 80)
FEW, FEW_ITEMS = "few", 40_000
EXACT_ALL = 100_000  # most items for which exact search runs every query


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument(
        "--hnsw",
        type=int,
        nargs=3,
        default=HNSW,
        metavar=("M", "BUILD", "SEARCH"),
        help="links, ef of construction and ef of the search (default: %(default)s)",
    )
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument(
        "--like", type=Path, help="a folder of Parquet vectors to repeat with noise"
    )
    parser.add_argument(
        "--contestants",
        nargs="+",
        default=[*CONTESTANTS],
        choices=[*CONTESTANTS],
        help="besides exact search, the reference of the recall (default: all)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print a table of each contestant on each number of items. Exact search comes first."""
    rows = []
    contestants = dict.fromkeys(["exact", *arguments.contestants])
    for num_items in arguments.items:
        with tempfile.TemporaryDirectory(prefix="mdsrec-benchmark-") as name:
            folder = Path(name)
            like = arguments.like
            blocks = (
                vectors.repeated_vectors(like, num_items)
                if like
                else vectors.synthetic_vectors(num_items, arguments.width)
            )
            vectors.write_tables(folder, blocks)
            vectors.write_tables(
                folder / FEW, vectors.synthetic_vectors(FEW_ITEMS, arguments.width)
            )
            for contestant in contestants:
                words = [contestant, str(folder), *map(str, arguments.hnsw)]
                reading = measure(__name__, words, LIMIT_GIB, LIMIT_SECONDS)
                rows.append(
                    _row("repeated" if like else "synthetic", num_items, contestant, reading)
                )
                print(markdown_table(COLUMNS, rows[-1:]).splitlines()[-1], flush=True)
    print(markdown_table(COLUMNS, rows))


def _row(kind: str, num_items: int, contestant: str, reading: Reading) -> list[str]:
    result = reading.result
    cells = [f"{result[key]:.3f}" if key in result else "-" for key in ("recall_10", "recall_50")]
    seconds = f"{result['seconds']:.1f}" if result else "-"
    note = result.get("note", reading.outcome)
    peak = f"{reading.peak_process_bytes / GIB:.2f} GiB"
    return [kind, f"{num_items:,}", contestant, seconds, *cells, peak, note]


def ours(experiment: Experiment, sample: Ints) -> tuple[float, Ints, str]:
    """Run the step of the ETL on local[*].

    The seconds do not include the start of the JVM and a run over a few items that warms it up.
    """
    few = Workspace(vectors.experiment_of(Path(experiment.root).parent / FEW))
    GraphBuilder(few, vectors.MODALITY).build_neighbors(0.0)
    space = Workspace(experiment, few.spark)
    started = time.monotonic()
    manifest = GraphBuilder(space, vectors.MODALITY).build_neighbors(0.0)
    seconds = time.monotonic() - started
    few.close()
    uri = tables.table_uri(experiment.root, neighbors_name(experiment, vectors.MODALITY))
    lists = [ItemTable.open(uri, NEIGHBORS).read(i, i + 1, ["item", "neighbors"]) for i in sample]
    found = [part.column("neighbors")[0].values.to_numpy()[:COUNT] for part in lists]
    counters = manifest.counters
    note = f"{counters['overlap']} of {counters['cells']} cells, own recall {counters['recall']}"
    return seconds, np.stack(found), note


def exact(experiment: Experiment, sample: Ints) -> tuple[float, Ints, str]:
    """Run faiss's flat search; above EXACT_ALL items only on the sample, and extrapolate."""
    import faiss

    rows = _unit_vectors(experiment)
    runs_all = len(rows) <= EXACT_ALL
    queries = np.arange(len(rows)) if runs_all else sample
    started = time.monotonic()
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    _, found = index.search(rows[queries], COUNT + 1)
    seconds = (time.monotonic() - started) * len(rows) / len(queries)
    lists = found[sample] if runs_all else found
    note = "" if runs_all else f"from {len(sample)} queries"
    return seconds, _drop_self(lists, sample), note


def hnsw(experiment: Experiment, sample: Ints) -> tuple[float, Ints, str]:
    """Run hnswlib."""
    import hnswlib

    links, building, searching = map(int, sys.argv[3:])
    rows = _unit_vectors(experiment)
    started = time.monotonic()
    index = hnswlib.Index("ip", rows.shape[1])
    index.init_index(len(rows), ef_construction=building, M=links)
    index.add_items(rows)
    index.set_ef(searching)
    found, _ = index.knn_query(rows, COUNT + 1)
    seconds = time.monotonic() - started
    note = f"M {links}, ef {building} and {searching}"
    return seconds, _drop_self(found[sample].astype(np.int64), sample), note


def descent(experiment: Experiment, sample: Ints) -> tuple[float, Ints, str]:
    """Run pynndescent with its defaults, after a run on a few rows that compiles it."""
    from pynndescent import NNDescent

    rows = _unit_vectors(experiment)
    options = {"metric": "cosine", "n_neighbors": COUNT + 1, "random_state": 0}
    NNDescent(rows[:5000], **options)
    started = time.monotonic()
    found, _ = NNDescent(rows, **options).neighbor_graph
    seconds = time.monotonic() - started
    return seconds, _drop_self(found[sample].astype(np.int64), sample), ""


CONTESTANTS = {"exact": exact, "ours": ours, "hnsw": hnsw, "descent": descent}


def _unit_vectors(experiment: Experiment) -> Vectors:
    table = VectorTable.open(tables.table_uri(experiment.root, f"features/{vectors.MODALITY}"))
    num_items = tables.open_table(tables.table_uri(experiment.root, "items")).rows
    rows = np.empty((num_items, table.width), np.float32)
    for first, last in block_ranges(num_items, 1 << 15):
        rows[first:last] = table.read(first, last)[1]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _drop_self(lists: Ints, items: Ints) -> Ints:
    """Return each list without the item itself, COUNT long."""
    others = np.argsort(lists == items[:, None], axis=1, kind="stable")[:, :COUNT]
    return np.take_along_axis(lists, others, 1)


def _recall(found: Ints, truth: Ints, count: int) -> float:
    pairs = zip(found[:, :count].tolist(), truth[:, :count].tolist(), strict=True)
    return float(np.mean([len({*mine} & {*theirs}) / count for mine, theirs in pairs]))


def main() -> None:
    """Run one contestant in this process. Exact search also saves the reference for the others."""
    contestant, folder = sys.argv[1], Path(sys.argv[2])
    experiment = vectors.experiment_of(folder)
    num_items = tables.open_table(tables.table_uri(experiment.root, "items")).rows
    sample = np.sort(np.random.default_rng(7).choice(num_items, QUERIES, replace=False))
    seconds, found, note = CONTESTANTS[contestant](experiment, sample)
    truth_file = folder / "truth.npy"
    if contestant == "exact":
        np.save(truth_file, found)
    truth = np.load(truth_file)
    print_result(
        seconds=seconds,
        recall_10=_recall(found, truth, 10),
        recall_50=_recall(found, truth, COUNT),
        note=note or DONE,
    )


if __name__ == "__main__":
    main()
