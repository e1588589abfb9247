"""The table `memory`: one task per span of items writes the rows of M and counts what it drops."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from scipy.sparse import csr_array

from etl.graph.spreading import Cut, Spreading, total_cut
from etl.spark.blocks import block_ranges, map_blocks
from etl.spark.part_files import write_part_file
from mdsrec import schema

log = logging.getLogger("etl")

CUT = "struct<rows: long, weight: double, lost: double>"


def write_memory(
    spark: SparkSession, spreading: Spreading, version: str, rows_per_file: int
) -> tuple[int, dict[str, Any]]:
    """Write M as Parquet files below `version` -> the number of rows, and counters.

    Counters are the rows of the transitions and of M that lost entries, and the lost share of all
    weight.
    """
    spans = list(block_ranges(spreading.num_items, spreading.span))
    write = partial(_write_span, spreading, spans, version, rows_per_file)
    columns = f"rows long, transitions {CUT}, memory {CUT}"
    written = map_blocks(spark, len(spans), write, columns).collect()
    counters: dict[str, Any] = {}
    most = spreading.config.max_entries
    for name in ("transitions", "memory"):
        cut = total_cut([Cut(*row[name]) for row in written])
        share = cut.lost / cut.weight if cut.weight else 0.0
        counters |= {f"{name}_rows_cut": cut.rows, f"{name}_lost_share": share}
        text = "transitions.max_entries = %d leaves out %.3g%% of the weight of %s, in %d rows"
        log.info(text, most, 100 * share, name, cut.rows)
    return sum(row.rows for row in written), counters


def _write_span(
    spreading: Spreading,
    spans: list[tuple[int, int]],
    version: str,
    rows_per_file: int,
    number: int,
) -> Iterator[pa.RecordBatch]:
    first, last = spans[number]
    M, *cuts = spreading.rows(first, last)
    rows = _table(M, first)
    for part, start in enumerate(range(0, max(1, rows.num_rows), rows_per_file)):
        name = f"part-{number:05d}-{part:03d}"
        write_part_file(version, name, rows.slice(start, rows_per_file), ascending=("other",))
    transitions, memory = (cut._asdict() for cut in cuts)
    yield pa.RecordBatch.from_pydict(
        {"rows": [rows.num_rows], "transitions": [transitions], "memory": [memory]}
    )


def _table(M: csr_array, first: int) -> pa.Table:
    items = np.arange(first, first + M.shape[0], dtype=np.int32)
    columns = [
        np.repeat(items, np.diff(M.indptr)),
        M.indices.astype(np.int32),
        M.data.astype(np.float32),
    ]
    return pa.Table.from_arrays([pa.array(c) for c in columns], schema=schema.MEMORY)
