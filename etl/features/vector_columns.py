"""The columns item_id and vector of the user's Parquet files, in any type that can be cast to ours.

The ids may also be in a column asin.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from mdsrec.errors import InputError

ID_COLUMNS = ("item_id", "asin")
PADDING = "\0 "  # at the end of ids of a fixed size
BYTES = (
    *(types.is_string, types.is_large_string, types.is_string_view),
    *(types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary),
)
LISTS = (
    *(types.is_list, types.is_large_list, types.is_fixed_size_list),
    *(types.is_list_view, types.is_large_list_view),
)
NUMBERS = (types.is_floating, types.is_integer, types.is_decimal, types.is_boolean)


def id_column(file: str, schema: pa.Schema) -> str:
    """Return the name of the column of item ids; InputError if a file has both."""
    found = [name for name in ID_COLUMNS if name in schema.names]
    if len(found) > 1:
        raise InputError(f"{file}: both columns {' and '.join(found)} name items: remove one")
    return found[0] if found else ID_COLUMNS[0]


def check_columns(file: str, schema: pa.Schema) -> None:
    """Raise InputError if a column is missing, or has a type that cannot be cast."""
    for column, is_usable, expected in (
        (id_column(file, schema), _is_id, "text, UTF-8 bytes or integers"),
        ("vector", is_vector, "lists of numbers, such as list<float>"),
    ):
        if column not in schema.names:
            raise InputError(
                f"{file}: no column {column}; there is {', '.join(schema.names)}. Expected the "
                "columns item_id and vector"
            )
        if not is_usable(schema.field(column).type):
            raise InputError(
                f"{file}: column {column} is {schema.field(column).type}, expected {expected}"
            )


def id_labels(file: str, name: str, column: pa.Array) -> pa.Array:
    """Return item ids as UTF-8 bytes: integers in decimal, text without spaces or padding."""
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_integer(column.type):
        return column.cast(pa.string()).cast(pa.binary())
    labels = column.cast(pa.binary())
    try:
        text = labels.cast(pa.string())
    except pa.ArrowInvalid:
        found = next(filter(_is_not_utf8, labels.to_pylist()))
        raise InputError(f"{file}: column {name} has {found!r}, which is not UTF-8 text") from None
    if types.is_fixed_size_binary(column.type):
        text = pc.utf8_rtrim(text, PADDING)
    return pc.utf8_trim_whitespace(text).cast(pa.binary())


def vector_lists(column: pa.Array) -> pa.LargeListArray:
    """Return vectors as lists of float32, rounded where float32 has fewer digits.

    A null becomes an empty list. Lists are built from their lengths because Arrow's cast of a
    list view loses rows.
    """
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]))
    return pa.LargeListArray.from_arrays(offsets, column.flatten().cast(pa.float32(), safe=False))


def _is_id(kind: pa.DataType) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any(test(kind) for test in (*BYTES, types.is_integer))


def is_vector(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds lists of numbers."""
    return any(test(kind) for test in LISTS) and any(test(kind.value_type) for test in NUMBERS)


def _is_not_utf8(label: bytes | None) -> bool:
    return label is not None and label.decode(errors="replace").encode() != label
