"""Co-occurrence O (Eq. 1-2): ours on Spark, Spark's usual self-join, and scipy in one process.

All write the same sorted rows as Parquet, and the rows of those that finish are compared. Beside
them, `transitions` counts these instead of O, by the same code as ours. Contestants on Spark have
two cores. Their seconds do not include the start of the JVM and a run over a
few interactions that warms it up; their memory does.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.catalogue.events import Catalogue, write_sequences
from benchmarks.measure import DONE, GIB, Reading, Stopwatch, measure, print_result
from etl.catalogue.sequences import only_training_events
from etl.graph.cooccurrence import write_cooccurrence
from etl.graph.weighting import Cooccurrence, Transitions, Weighting
from etl.spark import table_io
from etl.spark.session import open_session
from mdsrec import schema, tables
from mdsrec.config import SparkConfig, TransitionsConfig
from mdsrec.text import markdown_table

LIMIT_GIB = 8.0
HEAP = {
    "ours": "1g",
    "transitions": "1g",
    "self-join": "6g",
}  # ours adds up in Python, the join in the JVM
ROWS_PER_FILE = 500_000
COMPARED = 1 << 22  # rows that are compared at a time
FEW = 10_000  # interactions that warm up the JVM
COLUMNS = (
    "interactions",
    "pairs",
    "contestant",
    "seconds",
    "core seconds",
    "ns per pair",
    "rows shuffled",
    "GB shuffled",
    "peak GiB",
    "outcome",
)

Floats = npt.NDArray[np.float64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sizes = [1_000_000, 3_000_000, 10_000_000]
    parser.add_argument("--interactions", type=int, nargs="+", default=sizes)
    parser.add_argument(
        "--contestants", nargs="+", default=CONTESTANTS, choices=CONTESTANTS, help="default: all"
    )
    parser.add_argument(
        "--minutes", type=float, default=30, help="limit of a reading (default: 30)"
    )
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> None:
    rows = []
    for interactions in arguments.interactions:
        with tempfile.TemporaryDirectory(prefix="mdsrec-benchmark-") as name:
            folder = Path(name)
            write_sequences(
                f"{folder}/sequences", Catalogue.of_interactions(interactions, arguments.seed)
            )
            write_sequences(
                f"{folder}/few/sequences", Catalogue.of_interactions(FEW, arguments.seed)
            )
            finished = []
            for contestant in arguments.contestants:
                command = [contestant, str(folder)]
                reading = measure(__name__, command, LIMIT_GIB, 60 * arguments.minutes)
                rows.append(_row(interactions, contestant, reading))
                print(
                    markdown_table(COLUMNS, rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True
                )
                if reading.outcome == DONE and contestant != "transitions":
                    finished.append(contestant)
            for other in finished[1:]:
                first = finished[0]
                difference = largest_difference(folder / first, folder / other)
                assert difference < 1e-9, f"{first} and {other} differ by {difference}"
                print(f"{interactions:,}: {other} = {first} within {difference:.1g}", flush=True)
    print(markdown_table(COLUMNS, rows))


def _row(interactions: int, contestant: str, reading: Reading) -> list[str]:
    result = reading.result
    cells = ["-"] * 6
    if result:
        shuffled = (f"{result['rows_shuffled']:,}", f"{result['bytes_shuffled'] / 1e9:.2f}")
        pairs, seconds = result["pairs"], result["seconds"]
        spent = (f"{seconds:.1f}", f"{result['cpu_seconds']:.1f}", f"{seconds / pairs * 1e9:.0f}")
        cells = [f"{pairs:,}", *spent, *shuffled]
    peak = f"{reading.peak_bytes / GIB:.2f}"
    return [f"{interactions:,}", cells[0], contestant, *cells[1:], peak, reading.outcome]


def ours(folder: Path, spark: SparkSession) -> int:
    """Run the step of the ETL; return the number of pairs."""
    return _write_sums(folder, "ours", spark, Cooccurrence())


def transitions(folder: Path, spark: SparkSession) -> int:
    """Run the step of the ETL that counts transitions; return the number of pairs."""
    keys = TransitionsConfig()
    weighting = Transitions(decay=keys.decay, reverse=keys.reverse, max_distance=keys.max_distance)
    return _write_sums(folder, "transitions", spark, weighting)


def _write_sums(folder: Path, name: str, spark: SparkSession, weighting: Weighting) -> int:
    uri = f"{folder}/sequences"
    num_items = tables.open_table(uri).counters["items"]
    training = table_io.read_table(spark, uri, schema.SEQUENCES).transform(only_training_events)
    version = tables.new_version(f"{folder}/{name}")
    rows, counters = write_cooccurrence(training, num_items, weighting, version, ROWS_PER_FILE)
    tables.commit(f"{folder}/{name}", version, tables.Recipe({}, {}), rows, counters)
    return int(counters["pairs"])


def self_join(folder: Path, spark: SparkSession) -> int:
    """Join events with the later events of their user; return the number of pairs."""
    training = table_io.read_table(spark, f"{folder}/sequences", schema.SEQUENCES)
    training = training.select(
        "user", F.slice("items", F.lit(1), F.col("train_end")).alias("items")
    )
    earlier = training.select("user", F.posexplode("items").alias("p", "i"))
    later = earlier.select("user", F.col("p").alias("q"), F.col("i").alias("j"))
    pairs = earlier.join(later, "user").where("p < q and i != j")
    half = pairs.groupBy(F.least("i", "j").alias("i"), F.greatest("i", "j").alias("j")).agg(
        F.sum(1 / (F.col("q") - F.col("p"))).alias("score")
    )
    there = half.select(F.col("i").alias("item"), F.col("j").alias("other"), "score")
    back = half.select(F.col("j").alias("item"), F.col("i").alias("other"), "score")
    _write_sorted(there.unionAll(back), folder / "self-join")
    lengths = training.select(F.size("items").alias("n"))
    total = lengths.agg(F.sum(F.expr("n * (n - 1L)")).alias("ordered")).first()
    assert total is not None
    return int(total.ordered) // 2


def _write_sorted(rows: DataFrame, path: Path) -> None:
    rows.orderBy("item", "other").write.option("compression", "zstd").parquet(str(path))


def one_process(folder: Path) -> int:
    """Add up one sparse matrix, built from all pairs of one distance at a time, with scipy.

    Return the number of pairs.
    """
    from scipy.sparse import coo_array

    num_items = tables.open_table(f"{folder}/sequences").counters["items"]
    columns = ["items", "train_end"]
    table = tables.read_table(f"{folder}/sequences", schema.SEQUENCES, columns).combine_chunks()
    lists, ends = table["items"].chunk(0), table["train_end"].to_numpy()
    offsets, items = lists.offsets.to_numpy(), lists.values.to_numpy()
    left = np.repeat(offsets[:-1] + ends, np.diff(offsets)) - np.arange(len(items))
    position = np.flatnonzero(left > 1)
    rows, others, weights = [], [], []
    distance = 1
    while len(position):
        one, other = items[position], items[position + distance]
        pair = one != other
        rows += [one[pair], other[pair]]
        others += [other[pair], one[pair]]
        weights += [np.full(2 * int(pair.sum()), 1 / distance)]
        distance += 1
        position = position[left[position] > distance]
    entries = np.concatenate(weights), (np.concatenate(rows), np.concatenate(others))
    O = coo_array(entries, shape=(num_items, num_items)).tocsr()  # noqa: E741
    O.sum_duplicates()
    item = np.repeat(np.arange(num_items, dtype=np.int32), np.diff(O.indptr))
    rows_of_o = pa.table({"item": item, "other": O.indices.astype(np.int32), "score": O.data})
    (folder / "scipy").mkdir()
    pq.write_table(rows_of_o, folder / "scipy" / "part-00000.parquet", compression="zstd")
    return len(entries[0]) // 2


ON_SPARK: dict[str, Callable[[Path, SparkSession], int]] = {
    "ours": ours,
    "transitions": transitions,
    "self-join": self_join,
}
CONTESTANTS = (*ON_SPARK, "scipy")


def _session(contestant: str) -> SparkSession:
    """Open a session with Spark's web UI, whose API has the shuffle counts."""
    settings = {"spark.ui.enabled": "true", "spark.ui.port": "0"}
    config = SparkConfig(master="local[2]", driver_memory=HEAP[contestant], settings=settings)
    return open_session(config)


def shuffle_counts(spark: SparkSession) -> dict[str, int]:
    """Return the rows and bytes that all stages so far have written to a shuffle."""
    context = spark.sparkContext
    address = f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/stages"
    with urlopen(address) as stream:
        stages = json.load(stream)
    return {
        "rows_shuffled": sum(stage["shuffleWriteRecords"] for stage in stages),
        "bytes_shuffled": sum(stage["shuffleWriteBytes"] for stage in stages),
    }


def largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference of the scores of two tables.

    It is infinite if the tables do not have the same (item, other) in the same order.
    """
    largest = 0.0
    blocks = zip_longest(_blocks(one), _blocks(other), fillvalue=_numbers([]))
    for (keys, scores), (other_keys, other_scores) in blocks:
        if not np.array_equal(keys, other_keys):
            return float("inf")
        largest = max(largest, float(np.abs(scores - other_scores).max(initial=0)))
    return largest


def _blocks(folder: Path) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
    """Yield (keys, scores) of COMPARED rows at a time, across the boundaries of files."""
    pending: list[pa.RecordBatch] = []
    size = 0
    for path in sorted(folder.rglob("part-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(1 << 16):
            while size + batch.num_rows >= COMPARED:
                head = batch.slice(0, COMPARED - size)
                yield _numbers([*pending, head])
                batch = batch.slice(len(head))
                pending, size = [], 0
            pending.append(batch)
            size += batch.num_rows
    yield _numbers(pending)


def _numbers(batches: list[pa.RecordBatch]) -> tuple[npt.NDArray[np.int64], Floats]:
    table = pa.Table.from_batches(batches, schema=None if batches else schema.COOCCURRENCE)
    item, other = (table[name].to_numpy().astype(np.int64) for name in ("item", "other"))
    return item << 32 | other, table["score"].to_numpy()


def main() -> None:
    """Run one contestant in this process; print its number of pairs and its costs."""
    contestant, folder = sys.argv[1], Path(sys.argv[2])
    if contestant == "scipy":
        watch = Stopwatch()
        print_result(pairs=one_process(folder), **watch.read(), rows_shuffled=0, bytes_shuffled=0)
        return
    spark = _session(contestant)
    ON_SPARK[contestant](folder / "few", spark)
    before, watch = shuffle_counts(spark), Stopwatch()
    pairs = ON_SPARK[contestant](folder, spark)
    spent = watch.read()
    shuffled = {key: count - before[key] for key, count in shuffle_counts(spark).items()}
    print_result(pairs=pairs, **spent, **shuffled)


if __name__ == "__main__":
    main()
