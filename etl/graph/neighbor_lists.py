"""The neighbors table: one task writes each part from packed lists, and measures its recall."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from etl.graph.recall import ExactSample, count_hits
from etl.spark.part_files import write_part_file
from mdsrec.schema import NEIGHBORS

COUNTS = "lists_cut_short long, found long, sampled long"


@dataclass(frozen=True)
class ListStatistics:
    lists_cut_short: int  # items whose cells hold fewer than H others
    recall: float


def write_lists(
    packed: DataFrame, num_parts: int, count: int, sample: ExactSample, version: str
) -> ListStatistics:
    """Write the lists of `neighbors.find_neighbors` as files below `version`."""
    write = partial(_write_part, count, sample, version)
    counts = packed.repartitionById(num_parts, "part").mapInArrow(write, COUNTS).collect()
    short, found, sampled = (sum(column) for column in zip(*counts, strict=True))
    return ListStatistics(short, found / sampled)


def _write_part(
    count: int, sample: ExactSample, version: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Write the rows of a task, which all belong to one part."""
    rows = [row for batch in batches for row in batch.to_pylist()]
    if not rows:
        return
    items = np.concatenate([np.frombuffer(row["items"], np.int32) for row in rows])
    order = np.argsort(items)
    items = items[order]
    lists, similarities = (
        np.concatenate([np.frombuffer(row[name], kind).reshape(-1, count) for row in rows])[order]
        for name, kind in (("neighbors", np.int32), ("similarities", np.float32))
    )
    present = lists >= 0
    ends = np.concatenate([[0], np.cumsum(present.sum(axis=1))]).astype(np.int32)
    columns = [
        pa.array(items),
        pa.ListArray.from_arrays(ends, pa.array(lists[present])),
        pa.ListArray.from_arrays(ends, pa.array(similarities[present])),
    ]
    name = f"part-{rows[0]['part']:05d}"
    write_part_file(version, name, pa.Table.from_arrays(columns, schema=NEIGHBORS))
    found, sampled = count_hits(sample, items, similarities)
    counts = [int((~present[:, -1]).sum()), found, sampled]
    names = ["lists_cut_short", "found", "sampled"]
    yield pa.RecordBatch.from_arrays([pa.array([value], pa.int64()) for value in counts], names)
