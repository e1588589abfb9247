"""Type aliases of numpy arrays, and matrices as columns of lists."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST_VALUES = 2**31 - 1  # of all lists in a chunk, whose offsets have 32 bits


def fixed_lists(rows: NDArray[Any]) -> pa.ChunkedArray:
    """Return the rows of a matrix as lists, in as many chunks as the offsets need."""
    num_rows, width = rows.shape
    together = max(1, MOST_VALUES // max(1, width))
    starts = range(0, max(1, num_rows), together)
    return pa.chunked_array([_chunk(rows[start : start + together]) for start in starts])


def _chunk(rows: NDArray[Any]) -> pa.ListArray:
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.reshape(-1)))
