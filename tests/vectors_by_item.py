"""Vectors of a features step as the table would hold them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from etl.features.vector_blocks import VectorLocations, write_vectors
from etl.spark.table_io import FileLayout
from mdsrec.tables import new_version


def vectors_by_item(
    located: VectorLocations, folder: Any, num_tasks: int = 2
) -> dict[int, npt.NDArray[np.float32]]:
    """Write the vectors as two files, cut at item 2, and read them back in the files' order."""
    version = new_version(str(folder))
    layout = FileLayout(F.when(F.col("item") < 2, 0).otherwise(1), 2)
    rows = write_vectors(located, layout, version, num_tasks)
    table = pq.read_table(version)
    assert table.num_rows == rows
    items = table.column("item").to_pylist()
    assert items == sorted(items)
    vectors = table.column("vector").to_pylist()
    return {item: np.array(v, np.float32) for item, v in zip(items, vectors, strict=True)}
