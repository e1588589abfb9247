"""A run's test events, one by one: what runs are compared by."""

from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdsrec import metrics, schema, tables

Floats = NDArray[np.float64]


class Events(NamedTuple):
    """By user, then time: the same order in every run on the same data."""

    users: NDArray[np.int64]  # [events]
    names: list[str]  # of the metrics, as recall@10
    values: Floats  # [events, metrics]


def events_of(run: str, cutoffs: tuple[int, ...], channel: str = "all") -> Events:
    """Each test event's metrics in a channel, the whole score unasked; InputError without ranks
    below `run`.
    """
    remedy = "run `python -m evaluation CONFIG`"
    ranks = tables.read_table(f"{run}/ranks", schema.RANKS, remedy=remedy)
    chosen = pc.and_(pc.equal(ranks["split"], "test"), pc.equal(ranks["channel"], channel))
    ranks = ranks.filter(chosen)
    ranks = ranks.take(np.argsort(ranks["user"].to_numpy(), kind="stable"))
    found = metrics.by_event(ranks["better"].to_numpy(), ranks["ties"].to_numpy(), cutoffs)
    return Events(ranks["user"].to_numpy(), list(found), np.stack(list(found.values()), axis=1))
