"""Metrics of each test event, the input of comparisons between runs."""

from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from mdsrec import metrics, schema, tables
from mdsrec.arrays import Counts, Floats
from mdsrec.run_paths import RunPaths


class Events(NamedTuple):
    """Test events by user, then time: the same order in every run on the same data."""

    users: Counts  # [events]
    targets: Counts  # [events], items
    names: list[str]  # of the metrics, as recall@10
    values: Floats  # [events, metrics]


def read_events(run: str, cutoffs: tuple[int, ...], channel: str = "all") -> Events:
    """Compute the metrics of each test event from the ranks in the run folder `run`.

    The default channel, `all`, is the whole score (Eq. 22). Raises InputError if there is no
    ranks table.
    """
    remedy = "run `mdsrec evaluate CONFIG`"
    ranks = tables.read_table(RunPaths(run).ranks, schema.RANKS, remedy=remedy)
    selected = pc.and_(pc.equal(ranks["split"], "test"), pc.equal(ranks["channel"], channel))
    ranks = ranks.filter(selected)
    ranks = ranks.take(np.argsort(ranks["user"].to_numpy(), kind="stable"))
    values = metrics.per_event(ranks["better"].to_numpy(), ranks["ties"].to_numpy(), cutoffs)
    return Events(
        ranks["user"].to_numpy(),
        ranks["target"].to_numpy().astype(np.int64),
        list(values),
        np.stack(list(values.values()), axis=1),
    )
