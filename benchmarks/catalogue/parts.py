"""Tables written in parts by a thread for each core, and committed at the end."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mdsrec import tables
from mdsrec.files import file_system

ROW_GROUP_BYTES = 32 << 20
PART_BYTES = 64 << 20

Part = Callable[[int, int], pa.Table]  # (first, last) -> the rows of first <= key < last


def write_parts(
    uri: str,
    recipe: tables.Recipe,
    part: Part,
    num_keys: int,
    keys_per_part: int,
    counters: Mapping[str, Any] | None = None,
    repetitive: tuple[str, ...] = (),
) -> tables.Manifest:
    """Write the rows of keys [0, num_keys) as the table at `uri`.

    Numbers look random to a compressor, so there is none. The leading column ascends and is
    delta-encoded; columns in `repetitive` have a dictionary.
    """
    version = tables.new_version(uri)
    folder = Path(file_system(version)[1])
    folder.mkdir(parents=True)

    def write(first: int) -> int:
        rows = part(first, min(first + keys_per_part, num_keys))
        pq.write_table(
            rows,
            folder / f"part-{first // keys_per_part:05d}.parquet",
            compression="none",
            use_dictionary=list(repetitive),
            column_encoding={rows.column_names[0]: "DELTA_BINARY_PACKED"},
            row_group_size=max(1, rows.num_rows * ROW_GROUP_BYTES // max(1, rows.nbytes)),
        )
        return int(rows.num_rows)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        num_rows = sum(pool.map(write, range(0, num_keys, keys_per_part)))
    return tables.commit(uri, version, recipe, num_rows, counters)
