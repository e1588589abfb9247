"""What the lists that users are given are like, all together: reductions of `recommendations`."""

from collections.abc import Mapping

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evaluation.metrics.run_metrics import ListMetrics
from mdsrec import files, metrics, schema, table_names, tables
from mdsrec.config import Experiment
from mdsrec.tables import Manifest

Counts = NDArray[np.int64]


def list_metrics(experiment: Experiment, inputs: Mapping[str, str]) -> ListMetrics | None:
    """Coverage and popularity lift of the run's recommendations, and how they were made; nothing
    where none stand that were made from `inputs`, the fingerprints of tables and weights.
    """
    uri = f"{table_names.run_uri(experiment)}/recommendations"
    manifest = tables.read_manifest(uri)
    if manifest is None or manifest.inputs != dict(inputs):
        return None
    items = tables.table_uri(experiment.root, "items")
    num_train = tables.read_table(items, schema.ITEMS, ["num_train"])["num_train"].to_numpy()
    listed = _counted(uri, manifest, len(num_train))
    sequences = tables.table_uri(experiment.root, "sequences")
    had = _counted(sequences, tables.open_table(sequences), len(num_train))
    return ListMetrics(
        top=manifest.settings["top"],
        exclude_seen=manifest.settings["exclude_seen"],
        coverage=metrics.coverage(listed),
        popularity_lift=metrics.popularity_lift(listed, had, num_train),
    )


def list_metrics_text(lists: ListMetrics) -> tuple[str, str]:
    """Coverage and popularity lift, a sentence each."""
    seen = "seen items left out" if lists.exclude_seen else "seen items among them"
    return (
        f"{lists.coverage:.1%} of all items stand in the {lists.top} of some user, {seen}",
        f"{lists.popularity_lift:+.0%} training events of a listed item over one that users had",
    )


def _counted(uri: str, manifest: Manifest, num_items: int) -> Counts:
    """How often each item stands in the lists `items` of a table -> [X]."""
    filesystem, _ = files.file_system(uri)
    counts = np.zeros(num_items, dtype=np.int64)
    for path in tables.data_files(uri, manifest):
        lists = pq.read_table(path, columns=["items"], filesystem=filesystem, partitioning=None)
        items = lists["items"].combine_chunks().flatten().to_numpy()
        counts += np.bincount(items, minlength=num_items)
    return counts
