"""The table of the heaviest entries of each row of O, which bounds its rows.

X items, n of them in a span.
"""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from scipy.sparse import csr_array

from etl.graph.cooccurrence import MAX_PARTS
from etl.graph.row_cuts import Cut, keep_heaviest, total_cut
from etl.spark.blocks import block_ranges, map_blocks
from etl.spark.part_files import write_part_file
from etl.spark.vector_table import ItemTable
from mdsrec import schema

log = logging.getLogger("etl")

ENTRIES_PER_SPAN = 1 << 22  # of O, that a task holds at a time
CUT = "rows long, rows_cut long, weight double, lost double"


def read_rows(table: ItemTable, first: int, last: int, num_items: int) -> csr_array:
    """Return the rows [n, X] of a table of (item, other, score) sorted by both items."""
    entries = table.read(first, last, ["item", "other", "score"])
    item, other, score = (entries.column(name).to_numpy() for name in entries.column_names)
    starts = np.searchsorted(item, np.arange(first, last + 1))
    return csr_array((score, other, starts), shape=(last - first, num_items))


def write_heaviest(
    spark: SparkSession,
    graph: ItemTable,
    num_items: int,
    num_entries: int,
    most: int,
    version: str,
    rows_per_file: int,
) -> tuple[int, dict[str, Any]]:
    """Write the `most` heaviest entries of each row of O -> the number of entries, and counters.

    A file has `rows_per_file` rows at most, unless there would be more than MAX_PARTS such files.
    What is left is not symmetric: a popular item drops entries that its counterparts keep.
    """
    least = num_entries // MAX_PARTS
    span = max(1, max(ENTRIES_PER_SPAN, least) * num_items // max(num_entries, 1))
    spans = list(block_ranges(num_items, span))
    rows_per_file = max(rows_per_file, least)
    write = partial(_write_span, graph, num_items, most, spans, version, rows_per_file)
    written = map_blocks(spark, len(spans), write, CUT).collect()
    cut = total_cut([Cut(row.rows_cut, row.weight, row.lost) for row in written])
    share = cut.lost / cut.weight if cut.weight else 0.0
    text = "graph.max_cooccurrences = %d leaves out %.3g%% of the weight of O, in %d rows"
    log.info(text, most, 100 * share, cut.rows)
    counters = {"rows_cut": cut.rows, "lost_weight": cut.lost, "lost_share": share}
    return sum(row.rows for row in written), counters


def _write_span(
    graph: ItemTable,
    num_items: int,
    most: int,
    spans: list[tuple[int, int]],
    version: str,
    rows_per_file: int,
    number: int,
) -> Iterator[pa.RecordBatch]:
    first, last = spans[number]
    kept, cut = keep_heaviest(read_rows(graph, first, last, num_items), most)
    items = np.arange(first, last, dtype=np.int32)
    columns = [np.repeat(items, np.diff(kept.indptr)), kept.indices.astype(np.int32), kept.data]
    rows = pa.Table.from_arrays([pa.array(c) for c in columns], schema=schema.COOCCURRENCE)
    for part, start in enumerate(range(0, max(1, rows.num_rows), rows_per_file)):
        piece = rows.slice(start, rows_per_file)
        write_part_file(version, f"part-{number:05d}-{part:03d}", piece, ascending=("other",))
    yield pa.RecordBatch.from_pydict(
        {
            "rows": [rows.num_rows],
            "rows_cut": [cut.rows],
            "weight": [cut.weight],
            "lost": [cut.lost],
        }
    )
