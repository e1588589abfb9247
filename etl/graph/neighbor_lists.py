"""The neighbours table from packed lists: each part written by one task, recall measured on it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from etl.graph.recall import Truth, hits
from etl.spark.part_files import write_part_file
from mdsrec.schema import NEIGHBORS

WRITTEN = "lists_cut_short long, found long, sampled long"


@dataclass(frozen=True)
class Written:
    lists_cut_short: int  # items whose cells hold fewer than H others
    recall: float


def write_lists(
    packed: DataFrame, num_parts: int, count: int, truth: Truth, version: str
) -> Written:
    """Write the lists of `neighbors.neighbors` as parts under `version`."""
    write = partial(_write_parts, count, truth, version)
    parts = packed.repartitionById(num_parts, "part").mapInArrow(write, WRITTEN).collect()
    short, found, sampled = (sum(column) for column in zip(*parts, strict=True))
    return Written(short, found / sampled)


def _write_parts(
    count: int, truth: Truth, version: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """All rows of a task are of one part."""
    blobs = [row for batch in batches for row in batch.to_pylist()]
    if not blobs:
        return
    items = np.concatenate([np.frombuffer(row["items"], np.int32) for row in blobs])
    order = np.argsort(items)
    items = items[order]
    lists, similarities = (
        np.concatenate([np.frombuffer(row[name], kind).reshape(-1, count) for row in blobs])[order]
        for name, kind in (("neighbors", np.int32), ("similarities", np.float32))
    )
    there = lists >= 0
    ends = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    columns = [
        pa.array(items),
        pa.ListArray.from_arrays(ends, pa.array(lists[there])),
        pa.ListArray.from_arrays(ends, pa.array(similarities[there])),
    ]
    name = f"part-{blobs[0]['part']:05d}"
    write_part_file(version, name, pa.Table.from_arrays(columns, schema=NEIGHBORS))
    found, sampled = hits(truth, items, similarities)
    row = [int((~there[:, -1]).sum()), found, sampled]
    names = ["lists_cut_short", "found", "sampled"]
    yield pa.RecordBatch.from_arrays([pa.array([value], pa.int64()) for value in row], names)
