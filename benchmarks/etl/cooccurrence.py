"""Co-occurrence O (Eq. 1-2): ours on Spark, Spark's usual self-join, and scipy in one process.

All write the same sorted rows as Parquet. Both Sparks have two cores; the JVM's start, a run over a
few interactions included, is left out of the seconds, not out of the memory. Where several have
finished, their rows are compared.
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

from benchmarks.etl.catalogue import Catalogue, write_sequences
from benchmarks.measure import DONE, GIB, Reading, Stopwatch, answer, markdown, measured
from etl.catalogue.sequences import only_training_events
from etl.graph.cooccurrence import write_cooccurrence
from etl.graph.pairs import Weighting
from etl.spark import table_io
from etl.spark.session import open_session
from mdsrec import schema, tables
from mdsrec.config import SparkConfig

LIMIT_GIB = 8.0
HEAP = {"ours": "1g", "self-join": "6g"}  # ours sums in Python, the join in the JVM
ROWS_PER_FILE = 500_000
COMPARED = 1 << 22  # rows at a time
FEW = 10_000  # interactions that the JVM compiles itself on
COLUMNS = (
    "interactions",
    "pairs",
    "contestant",
    "seconds",
    "core seconds",
    "ns a pair",
    "rows shuffled",
    "GB shuffled",
    "peak GiB",
    "outcome",
)

Floats = npt.NDArray[np.float64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sizes = [1_000_000, 3_000_000, 10_000_000]
    parser.add_argument("--interactions", type=int, nargs="+", default=sizes)
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--minutes", type=float, default=30, help="limit of a reading (30)")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> None:
    rows = []
    for interactions in arguments.interactions:
        with tempfile.TemporaryDirectory(prefix="mdsrec-benchmark-") as name:
            folder = Path(name)
            write_sequences(f"{folder}/sequences", Catalogue(interactions, arguments.seed))
            write_sequences(f"{folder}/few/sequences", Catalogue(FEW, arguments.seed))
            done = []
            for contestant in arguments.contestants:
                words = [contestant, str(folder)]
                reading = measured(__name__, words, LIMIT_GIB, 60 * arguments.minutes)
                rows.append(_row(interactions, contestant, reading))
                print(markdown(COLUMNS, rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
                done += [contestant] if reading.outcome == DONE else []
            for other in done[1:]:
                difference = largest_difference(folder / done[0], folder / other)
                assert difference < 1e-9, f"{done[0]} and {other} differ by {difference}"
                print(f"{interactions:,}: {other} = {done[0]} within {difference:.1g}", flush=True)
    print(markdown(COLUMNS, rows))


def _row(interactions: int, contestant: str, reading: Reading) -> list[str]:
    found = reading.answer
    cells = ["-"] * 6
    if found:
        shuffled = (f"{found['rows_shuffled']:,}", f"{found['bytes_shuffled'] / 1e9:.2f}")
        pairs, seconds = found["pairs"], found["seconds"]
        spent = (f"{seconds:.1f}", f"{found['cpu_seconds']:.1f}", f"{seconds / pairs * 1e9:.0f}")
        cells = [f"{pairs:,}", *spent, *shuffled]
    peak = f"{reading.peak_bytes / GIB:.2f}"
    return [f"{interactions:,}", cells[0], contestant, *cells[1:], peak, reading.outcome]


def ours(folder: Path, spark: SparkSession) -> int:
    uri = f"{folder}/sequences"
    num_items = tables.open_table(uri).counters["items"]
    training = table_io.read_table(spark, uri, schema.SEQUENCES).transform(only_training_events)
    version = tables.new_version(f"{folder}/ours")
    rows, counters = write_cooccurrence(training, num_items, Weighting(), version, ROWS_PER_FILE)
    tables.commit(f"{folder}/ours", version, tables.Recipe({}, {}), rows, counters)
    return int(counters["pairs"])


def self_join(folder: Path, spark: SparkSession) -> int:
    """Events joined with the later events of their user."""
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
    """All pairs of a distance at once, as one sparse matrix that scipy sums."""
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
    found = pa.table({"item": item, "other": O.indices.astype(np.int32), "score": O.data})
    (folder / "scipy").mkdir()
    pq.write_table(found, folder / "scipy" / "part-00000.parquet", compression="zstd")
    return len(entries[0]) // 2


ON_SPARK: dict[str, Callable[[Path, SparkSession], int]] = {"ours": ours, "self-join": self_join}
CONTESTANTS = (*ON_SPARK, "scipy")


def _session(contestant: str) -> SparkSession:
    """With Spark's status server, which knows what was shuffled."""
    settings = {"spark.ui.enabled": "true", "spark.ui.port": "0"}
    config = SparkConfig(master="local[2]", driver_memory=HEAP[contestant], settings=settings)
    return open_session(config)


def shuffled(spark: SparkSession) -> dict[str, int]:
    """Rows and bytes that all stages so far have written to a shuffle."""
    context = spark.sparkContext
    address = f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/stages"
    with urlopen(address) as stream:
        stages = json.load(stream)
    return {
        "rows_shuffled": sum(stage["shuffleWriteRecords"] for stage in stages),
        "bytes_shuffled": sum(stage["shuffleWriteBytes"] for stage in stages),
    }


def largest_difference(one: Path, other: Path) -> float:
    """Of the scores of two tables with the same (item, other) in the same order; infinite if they
    are not the same.
    """
    largest = 0.0
    blocks = zip_longest(_blocks(one), _blocks(other), fillvalue=_numbers([]))
    for (keys, scores), (other_keys, other_scores) in blocks:
        if not np.array_equal(keys, other_keys):
            return float("inf")
        largest = max(largest, float(np.abs(scores - other_scores).max(initial=0)))
    return largest


def _blocks(folder: Path) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
    """(keys, scores) of COMPARED rows at a time, whatever the files are."""
    held: list[pa.RecordBatch] = []
    size = 0
    for path in sorted(folder.rglob("part-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(1 << 16):
            while size + batch.num_rows >= COMPARED:
                taken = batch.slice(0, COMPARED - size)
                yield _numbers([*held, taken])
                batch = batch.slice(len(taken))
                held, size = [], 0
            held.append(batch)
            size += batch.num_rows
    yield _numbers(held)


def _numbers(batches: list[pa.RecordBatch]) -> tuple[npt.NDArray[np.int64], Floats]:
    table = pa.Table.from_batches(batches, schema=None if batches else schema.COOCCURRENCE)
    item, other = (table[name].to_numpy().astype(np.int64) for name in ("item", "other"))
    return item << 32 | other, table["score"].to_numpy()


def main() -> None:
    """One contestant; it answers with the number of pairs and what they cost."""
    contestant, folder = sys.argv[1], Path(sys.argv[2])
    if contestant == "scipy":
        watch = Stopwatch()
        answer(pairs=one_process(folder), **watch.read(), rows_shuffled=0, bytes_shuffled=0)
        return
    spark = _session(contestant)
    ON_SPARK[contestant](folder / "few", spark)
    before, watch = shuffled(spark), Stopwatch()
    pairs = ON_SPARK[contestant](folder, spark)
    spent = watch.read()
    since = {key: count - before[key] for key, count in shuffled(spark).items()}
    answer(pairs=pairs, **spent, **since)


if __name__ == "__main__":
    main()
