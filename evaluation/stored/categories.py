"""The category of each item, from the table `categories`."""

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdsrec import schema, tables
from mdsrec.errors import InputError
from mdsrec.table_names import CATEGORIES


def check_category(root: str, category: str) -> None:
    """Raise InputError if no item can have the category."""
    manifest = tables.read_manifest(tables.table_uri(root, CATEGORIES))
    if manifest is None:
        raise InputError(
            f"--category {category}: the input has no categories: name them as "
            "[input.categories.NAME], and run `mdsrec etl CONFIG`"
        )
    if category not in manifest.counters:
        raise InputError(f"--category {category}: choose from {', '.join(manifest.counters)}")


def in_category(root: str, category: str) -> NDArray[np.bool_]:
    """Return whether each item is of the category -> bool [X]."""
    uri = tables.table_uri(root, CATEGORIES)
    rows = tables.stream_table(uri, tables.open_table(uri), schema.CATEGORIES, ["category"])
    parts = [pc.equal(batch.column(0), category) for batch in rows]
    return np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts])
