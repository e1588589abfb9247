"""The table `memory`: one task per span of items writes the rows of M and counts what it drops.

A span requests the rows of C' and of A^T that it needs from tasks that read them, one for each
block of items. So these tables are read once per wave of spans, not once per span. A wave has as
many spans as fit on the disks that its answers pass through.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F
from scipy.sparse import csr_array

from etl.graph.row_cuts import Cut, total_cut
from etl.graph.tiles import ENTRY, SPAN_BYTES
from etl.spark.blocks import block_ranges, map_blocks
from etl.spark.part_files import write_part_file
from etl.spark.vector_table import ItemTable
from etl.transitions.spreading import KINDS, MAX_SPANS, TRANSITIONS, Spreading
from mdsrec import schema
from mdsrec.arrays import Ints

log = logging.getLogger("etl")

Batches = Iterator[pa.RecordBatch]

WAVE_BYTES = 32 << 30  # of the spans of a wave, for each core; their answers take about a quarter
CUT = "struct<rows: long, weight: double, lost: double>"
WRITTEN = f"rows long, transitions {CUT}, memory {CUT}"
TRANSPOSED = "block int, entries binary"
REQUESTS = "block int, span int, kind int, items binary"
ANSWERS = "span int, kind int, block int, lengths binary, columns binary, scores binary"
ANSWERED = {"lengths": np.int64, "columns": np.int32, "scores": np.float64}


@dataclass(frozen=True)
class MemoryWriter:
    """The tasks that write M below `version`."""

    spreading: Spreading
    spans: tuple[tuple[int, int], ...]
    version: str
    rows_per_file: int

    def write_alone(self, span: int) -> Batches:
        """Write a span that needs no rows of other items."""
        yield self._write(span, ())

    def request(self, first: int, number: int) -> Batches:
        """Yield the REQUESTS of span `first + number`; it has at least one."""
        span, size = first + number, self.spreading.block_size
        rows = []
        for kind, items in enumerate(self.spreading.needs(*self.spans[span])):
            parts = _groups(items // size, items)
            rows += [(block, span, kind, part.tobytes()) for block, part in parts]
        yield _batch(REQUESTS, rows or [(0, span, TRANSITIONS, b"")])

    def answer(self, batches: Batches) -> Batches:
        """Yield the ANSWERS to the requests of a task, which all go to one block."""
        factors: list[csr_array] = []
        for row in _rows(batches):
            start = row["block"] * self.spreading.block_size
            if not factors:
                stop = min(start + self.spreading.block_size, self.spreading.num_items)
                factors = [self.spreading.factor(kind, start, stop) for kind in KINDS]
            found = factors[row["kind"]][np.frombuffer(row["items"], np.int64) - start]
            lengths = np.diff(found.indptr).astype(np.int64)
            columns = lengths, found.indices.astype(np.int32), found.data
            packed = (np.ascontiguousarray(column).tobytes() for column in columns)
            yield _batch(ANSWERS, [(row["span"], row["kind"], row["block"], *packed)])

    def write(self, batches: Batches) -> Batches:
        """Write the span of a task from its answers, sorted by kind and block.

        They are appended to buffers, so that memory holds them once.
        """
        joined = [{name: bytearray() for name in ANSWERED} for _ in KINDS]
        span = None
        for row in _rows(batches):
            span = row["span"]
            for name, values in joined[row["kind"]].items():
                values += row[name]
        if span is not None:
            factors = [_matrix(columns, self.spreading.num_items) for columns in joined]
            yield self._write(span, factors)

    def _write(self, span: int, factors: Sequence[csr_array]) -> pa.RecordBatch:
        first, last = self.spans[span]
        M, *cuts = self.spreading.rows(first, last, factors)
        rows = _table(M, first)
        for part, start in enumerate(range(0, max(1, rows.num_rows), self.rows_per_file)):
            piece = rows.slice(start, self.rows_per_file)
            write_part_file(self.version, f"part-{span:05d}-{part:03d}", piece, ("other",))
        transitions, memory = (cut._asdict() for cut in cuts)
        return pa.RecordBatch.from_pydict(
            {"rows": [rows.num_rows], "transitions": [transitions], "memory": [memory]}
        )


def write_memory(
    spark: SparkSession, spreading: Spreading, version: str, rows_per_file: int
) -> tuple[int, dict[str, Any]]:
    """Write M as Parquet files below `version` -> the number of rows, and counters.

    Counters are the rows of the transitions and of M that lost entries, and the lost share of all
    weight.
    """
    most = spreading.config.max_entries
    least = spreading.num_items * most // MAX_SPANS  # so that a long span is one file
    spans = tuple(block_ranges(spreading.num_items, spreading.span))
    writer = MemoryWriter(spreading, spans, version, max(rows_per_file, least))
    if spreading.spreads:
        size = spans_per_wave(spreading, spark.sparkContext.defaultParallelism)
        waves = block_ranges(len(spans), size)
        written = [row for wave in waves for row in _write_wave(spark, writer, *wave)]
    else:
        written = map_blocks(spark, len(spans), writer.write_alone, WRITTEN).collect()
    counters: dict[str, Any] = {}
    for name in ("transitions", "memory"):
        cut = total_cut([Cut(*row[name]) for row in written])
        share = cut.lost / cut.weight if cut.weight else 0.0
        counters |= {f"{name}_rows_cut": cut.rows, f"{name}_lost_share": share}
        text = "transitions.max_entries = %d leaves out %.3g%% of the weight of %s, in %d rows"
        log.info(text, most, 100 * share, name, cut.rows)
    return sum(row.rows for row in written), counters


def spans_per_wave(spreading: Spreading, num_cores: int) -> int:
    """Return how many spans fill WAVE_BYTES for each core."""
    return max(1, num_cores * WAVE_BYTES // max(SPAN_BYTES, spreading.span_bytes))


def _write_wave(spark: SparkSession, writer: MemoryWriter, first: int, last: int) -> list[Row]:
    """Write the spans [first, last)."""
    request = partial(writer.request, first)
    return (
        map_blocks(spark, last - first, request, REQUESTS)
        .repartitionById(writer.spreading.num_blocks, "block")
        .mapInArrow(writer.answer, ANSWERS)
        .repartitionById(last - first, F.col("span") - first)
        .sortWithinPartitions("kind", "block")
        .mapInArrow(writer.write, WRITTEN)
        .collect()
    )


def write_transposed(spark: SparkSession, spreading: Spreading, folder: str) -> ItemTable:
    """Write A^T as files below `folder`, and return it."""
    num_blocks = spreading.num_blocks
    written = (
        map_blocks(spark, num_blocks, partial(_split_transposed, spreading), TRANSPOSED)
        .repartitionById(num_blocks, "block")
        .mapInArrow(partial(_write_transposed, folder), "rows long")
        .collect()
    )
    if not written:
        write_part_file(folder, "part-00000", schema.COOCCURRENCE.empty_table())
    return ItemTable.uncommitted(folder, schema.COOCCURRENCE)


def _split_transposed(spreading: Spreading, number: int) -> Batches:
    start = number * spreading.block_size
    stop = min(start + spreading.block_size, spreading.num_items)
    entries = spreading.transposed(start, stop)
    block = entries["item"] // spreading.block_size
    order = np.argsort(block, kind="stable")
    parts = _groups(block[order], entries[order])
    yield _batch(TRANSPOSED, [(block, part.tobytes()) for block, part in parts])


def _write_transposed(folder: str, batches: Batches) -> Batches:
    """Write the entries of a task, which all belong to one block."""
    parts = list(_rows(batches))
    if not parts:
        return
    entries = np.concatenate([np.frombuffer(part["entries"], ENTRY) for part in parts])
    entries = entries[np.lexsort((entries["other"], entries["item"]))]
    columns = [pa.array(np.ascontiguousarray(entries[name])) for name in ENTRY.names or ()]
    rows = pa.Table.from_arrays(columns, schema=schema.COOCCURRENCE)
    write_part_file(folder, f"part-{parts[0]['block']:05d}", rows)
    yield pa.RecordBatch.from_pydict({"rows": [rows.num_rows]})


def _groups(keys: Ints, values: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield every key and its values; the keys must ascend."""
    starts = np.flatnonzero(np.diff(keys, prepend=-1)).tolist()
    for start, stop in pairwise([*starts, len(keys)]):
        yield int(keys[start]), values[start:stop]


def _rows(batches: Batches) -> Iterator[dict[str, Any]]:
    return (row for batch in batches for row in batch.to_pylist())


def _batch(columns: str, rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    """Return rows with columns such as "block int, entries binary"."""
    kinds = {"int": pa.int32(), "binary": pa.binary()}
    fields = [column.split(" ") for column in columns.split(", ")]
    table = pa.schema([(name, kinds[kind]) for name, kind in fields])
    values = list(zip(*rows, strict=True)) if rows else [()] * len(table)
    arrays = [pa.array(v, field.type) for v, field in zip(values, table, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=table)


def _matrix(answers: dict[str, bytearray], num_items: int) -> csr_array:
    """Return the rows of the answers, in their order [n, X]."""
    lengths, columns, scores = (np.frombuffer(answers[name], ANSWERED[name]) for name in ANSWERED)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return csr_array((scores, columns, starts), shape=(len(lengths), num_items))


def _table(M: csr_array, first: int) -> pa.Table:
    items = np.arange(first, first + M.shape[0], dtype=np.int32)
    columns = [
        np.repeat(items, np.diff(M.indptr)),
        M.indices.astype(np.int32),
        M.data.astype(np.float32),
    ]
    return pa.Table.from_arrays([pa.array(c) for c in columns], schema=schema.MEMORY)
