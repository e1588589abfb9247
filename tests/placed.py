"""Reads back the vectors that a task of features placed, as the table would hold them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from etl.features.vector_blocks import Placed, write_vectors
from mdsrec.tables import new_version


def written(placed: Placed, folder: Any, num_tasks: int = 2) -> dict[int, npt.NDArray[np.float32]]:
    """Vector by item, in the order of the parts: two of them, cut at item 2."""
    version = new_version(str(folder))
    cut = F.when(F.col("item") < 2, 0).otherwise(1), 2
    rows = write_vectors(placed, cut, version, num_tasks)
    table = pq.read_table(version)
    assert table.num_rows == rows
    items = table.column("item").to_pylist()
    assert items == sorted(items)
    vectors = table.column("vector").to_pylist()
    return {item: np.array(v, np.float32) for item, v in zip(items, vectors, strict=True)}
