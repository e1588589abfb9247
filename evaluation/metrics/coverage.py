"""Coverage and popularity lift of the `recommendations` table.

Lists and histories are read in batches. A number and a mark per item are held.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from evaluation.metrics.run_metrics import ListMetrics
from evaluation.stored.table_rows import smallest_ints
from mdsrec import schema, tables
from mdsrec.arrays import Ints
from mdsrec.config import Experiment
from mdsrec.run_paths import RunPaths


class ItemLists(NamedTuple):
    """Counts over many lists of items."""

    items: int  # items of all lists
    popularity: int  # training events of all these items
    distinct: int  # items that are in some list

    @classmethod
    def of(cls, parts: Iterable[Ints], num_train: Ints) -> "ItemLists":
        """Count the items of all parts, given the training events of each item [X]."""
        num_items = popularity = 0
        is_listed = np.zeros(len(num_train), dtype=bool)
        for items in parts:
            num_items += len(items)
            popularity += int(num_train[items].sum(dtype=np.int64))
            is_listed[items] = True
        return cls(num_items, popularity, int(is_listed.sum()))


def list_metrics(experiment: Experiment, inputs: Mapping[str, str]) -> ListMetrics | None:
    """Compute the metrics of the run's recommendation lists.

    Returns None if there are no lists made from `inputs` (fingerprints of tables and weights).
    """
    uri = RunPaths.of(experiment).recommendations
    manifest = tables.read_manifest(uri)
    if manifest is None or manifest.inputs != dict(inputs):
        return None
    items = tables.table_uri(experiment.root, "items")
    num_train = smallest_ints(items, schema.ITEMS, "num_train")
    listed = ItemLists.of(_items(uri, schema.RECOMMENDATIONS), num_train)
    sequences = tables.table_uri(experiment.root, "sequences")
    consumed = ItemLists.of(_items(sequences, schema.SEQUENCES), num_train)
    return ListMetrics(
        top=manifest.settings["top"],
        exclude_seen=manifest.settings["exclude_seen"],
        coverage=coverage(listed, len(num_train)),
        popularity_lift=popularity_lift(listed, consumed),
    )


def list_metrics_text(lists: ListMetrics) -> tuple[str, str]:
    """Return one sentence on coverage and one on popularity lift."""
    seen = "without seen items" if lists.exclude_seen else "seen items included"
    return (
        f"{lists.coverage:.1%} of all items are in the top {lists.top} of some user, {seen}",
        f"{lists.popularity_lift:+.0%} training events per listed item, "
        "compared with the items that users had",
    )


def coverage(listed: ItemLists, num_items: int) -> float:
    """Return the share of items that are in at least one list."""
    return listed.distinct / num_items


def popularity_lift(listed: ItemLists, consumed: ItemLists) -> float:
    """Return how much more popular listed items are than the items of the users' histories.

    0 means equal (Abdollahpouri et al., arXiv:1907.13286, over all users).
    """
    of_listed = listed.popularity / max(listed.items, 1)
    of_consumed = consumed.popularity / max(consumed.items, 1)
    return of_listed / of_consumed - 1 if of_consumed else 0.0


def _items(uri: str, table_schema: pa.Schema) -> Iterator[Ints]:
    """Yield the items of the lists in the column `items` of a table."""
    for batch in tables.stream_table(uri, tables.open_table(uri), table_schema, ["items"]):
        yield batch.column(0).flatten().to_numpy()
