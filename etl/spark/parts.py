"""A task writes its own Parquet file of a table, so that its rows never pass through the JVM."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from mdsrec.files import write_bytes

GROUP_BYTES = 32 << 20  # of a row group in memory: what a reader by ranges of ids has to hold


def write_part(version_uri: str, name: str, table: pa.Table, ascending: Sequence[str] = ()) -> None:
    """The file `name`.parquet of a new version of a table (tables.new_version).

    `table` holds its rows in the contract's order and schema; integers of columns that mostly
    ascend are written as differences, in half the time, and floats of lists byte by byte, which are
    read in a quarter of it. The file is whole or not there; a task that is tried again puts the
    same bytes in the same place.
    """
    floats = [field.name for field in table.schema if _is_list_of_floats(field.type)]
    encoded = dict.fromkeys(ascending, "DELTA_BINARY_PACKED")
    encoded |= {f"{column}.list.element": "BYTE_STREAM_SPLIT" for column in floats}
    plain = [*ascending, *floats]
    content = pa.BufferOutputStream()
    pq.write_table(
        table,
        content,
        compression="zstd",
        row_group_size=max(1, table.num_rows * GROUP_BYTES // max(1, table.nbytes)),
        use_dictionary=[column for column in table.column_names if column not in plain],
        column_encoding=encoded or None,
    )
    write_bytes(f"{version_uri}/{name}.parquet", content.getvalue().to_pybytes())


def _is_list_of_floats(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_floating(kind.value_type))
