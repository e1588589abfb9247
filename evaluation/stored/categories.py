"""The category of each item, from the table `categories`."""

from collections.abc import Collection, Iterator

import pyarrow as pa

from evaluation.stored.of_items import table_of_items
from mdsrec import schema, tables
from mdsrec.errors import InputError
from mdsrec.table_names import CATEGORIES


def check_category(root: str, category: str) -> None:
    """Raise InputError if no item can have the category."""
    manifest = table_of_items(root, CATEGORIES)
    if manifest is None:
        raise InputError(
            f"--category {category}: the input has no categories: name them as "
            "[input.categories.NAME], and run `mdsrec etl CONFIG`"
        )
    check_is_one_of(f"--category {category}", category, manifest.counters)


def check_is_one_of(given: str, category: str, known: Collection[str]) -> None:
    """Raise InputError that begins with `given` if a category is not known."""
    if category not in known:
        raise InputError(f"{given}: choose from {', '.join(known)}")


def stream_categories(root: str) -> Iterator[pa.RecordBatch] | None:
    """Return the column `category` of all items in batches; None if the items have none."""
    if table_of_items(root, CATEGORIES) is None:
        return None
    uri = tables.table_uri(root, CATEGORIES)
    return tables.stream_table(uri, tables.open_table(uri), schema.CATEGORIES, ["category"])
