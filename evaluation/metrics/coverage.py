"""Coverage and popularity lift of the `recommendations` table."""

from collections.abc import Mapping

import numpy as np
import pyarrow.parquet as pq

from evaluation.metrics.run_metrics import ListMetrics
from mdsrec import files, schema, tables
from mdsrec.arrays import Counts
from mdsrec.config import Experiment
from mdsrec.run_paths import RunPaths
from mdsrec.tables import Manifest


def list_metrics(experiment: Experiment, inputs: Mapping[str, str]) -> ListMetrics | None:
    """Compute the metrics of the run's recommendation lists.

    Returns None if there are no lists made from `inputs` (fingerprints of tables and weights).
    """
    uri = RunPaths.of(experiment).recommendations
    manifest = tables.read_manifest(uri)
    if manifest is None or manifest.inputs != dict(inputs):
        return None
    items = tables.table_uri(experiment.root, "items")
    num_train = tables.read_table(items, schema.ITEMS, ["num_train"])["num_train"].to_numpy()
    listed = _count_items(uri, manifest, len(num_train))
    sequences = tables.table_uri(experiment.root, "sequences")
    consumed = _count_items(sequences, tables.open_table(sequences), len(num_train))
    return ListMetrics(
        top=manifest.settings["top"],
        exclude_seen=manifest.settings["exclude_seen"],
        coverage=coverage(listed),
        popularity_lift=popularity_lift(listed, consumed, num_train),
    )


def list_metrics_text(lists: ListMetrics) -> tuple[str, str]:
    """Return one sentence on coverage and one on popularity lift."""
    seen = "without seen items" if lists.exclude_seen else "seen items included"
    return (
        f"{lists.coverage:.1%} of all items are in the top {lists.top} of some user, {seen}",
        f"{lists.popularity_lift:+.0%} training events per listed item, "
        "compared with the items that users had",
    )


def coverage(listed: Counts) -> float:
    """Return the share of items that are in at least one list; `listed` [items] counts lists."""
    return float((listed > 0).mean())


def popularity_lift(listed: Counts, consumed: Counts, popularity: Counts) -> float:
    """Return how much more popular listed items are than the items of the users' histories.

    0 means equal (Abdollahpouri et al., arXiv:1907.13286, over all users). Arguments are
    [items]: number of lists with the item, number of events of it, number of training events.
    """
    of_listed = (listed @ popularity) / max(listed.sum(), 1)
    of_consumed = (consumed @ popularity) / max(consumed.sum(), 1)
    return float(of_listed / of_consumed - 1) if of_consumed else 0.0


def _count_items(uri: str, manifest: Manifest, num_items: int) -> Counts:
    """Count each item in the column `items` (lists) of a table -> [X]."""
    filesystem, _ = files.file_system(uri)
    counts = np.zeros(num_items, dtype=np.int64)
    for path in tables.data_files(uri, manifest):
        lists = pq.read_table(path, columns=["items"], filesystem=filesystem, partitioning=None)
        items = lists["items"].combine_chunks().flatten().to_numpy()
        counts += np.bincount(items, minlength=num_items)
    return counts
