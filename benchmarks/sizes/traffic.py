"""Bytes that one rank sends, by kind: the names are those of `Peers.bytes_sent`.

An all-to-all sends every row but the rank's own; an all-reduce counts its tensor once. The formulas
of a step and of a validation are exact for counted sizes.
"""

from benchmarks.sizes.shape import Counts, Shape

FLOAT, ID, COLUMN = 4, 8, 4
ENTRY = COLUMN + FLOAT  # of a graph
TABLE_ENTRY = 4 + 4 + 8  # row, column, weight of an entry while tables are loaded
GROUPS = 8  # of histories in a validation

Bytes = dict[str, int]


def of_step(shape: Shape, counts: Counts, full: bool) -> Bytes:
    """Return the bytes of a step with interest centers, under the full or the sampled loss."""
    W, row = shape.workers, FLOAT * shape.dim
    if W == 1:
        return {}
    halo_read, halo_lent = (counts.halo_read, counts.halo_lent) if full else (0, 0)
    sent = {
        "ids": ID * (counts.rows_read + counts.lists_read + (W - 1) * counts.items),
        "graphs": COLUMN * counts.lists_lent + ENTRY * counts.entries_lent,
        "rows": row * (counts.rows_lent + halo_lent),
        "gradients": row * (counts.rows_read + halo_read),
        "sums": row * counts.items_of_others,
        "gradients of sums": row * (W - 1) * counts.items,
        "centers": row * 2 * shape.modalities * shape.centers,
    }
    return sent | (_of_softmax(shape, counts) if full else {})


def _of_softmax(shape: Shape, counts: Counts) -> Bytes:
    """Return the bytes of the full softmax: queries, log-sum-exps, and gradients of queries."""
    query = shape.channels * FLOAT * shape.dim
    everyone = counts.prefixes + counts.prefixes_of_others
    weights = (shape.workers - 1) * shape.channels * FLOAT  # of the losses of each rank
    return {
        "queries": (shape.workers - 1) * counts.prefixes * (query + ID),
        "log-sums": 3 * FLOAT * shape.channels * everyone,
        "gradients of queries": counts.prefixes_of_others * query + weights,
    }


def of_load(shape: Shape) -> Bytes:
    """Return the bytes of a load: entries go to the owners of their columns, ids of the halo too.

    The headers of the tables in transit come on top.
    """
    if shape.workers == 1:
        return {}
    remote = 1 - 1 / shape.workers
    lists = shape.own_items * shape.modalities * shape.neighbors
    entries = shape.own_items * shape.cooccurring + lists
    return {"tables": round(remote * entries * TABLE_ENTRY), "ids": round(remote * lists * ID)}


def of_replicated_step(shape: Shape, counts: Counts, full: bool) -> Bytes:
    """Return the bytes of a step where every rank holds all items, at ZeRO stage 1.

    Under the sampled loss the gradient travels as rows to every rank; under the full one it is
    reduced to the rank that steps it. New weights travel to all. A ring sends a tensor once.
    """
    table = FLOAT * shape.dim * shape.items
    if shape.workers == 1:
        return {}
    rows = (ID + FLOAT * shape.dim) * counts.rows * (shape.workers - 1)
    return {"gradients": table if full else rows, "new weights": table}


def of_ranking(shape: Shape, targets: int, sums: int = 1) -> Bytes:
    """Return the bytes of ranking `targets` of each rank once by S sums and all channels.

    Vectors and targets are gathered; then the scores of the targets are added up twice, and the
    counts of higher and equal scores once.
    """
    W = shape.workers
    if W == 1:
        return {}
    gathered = (W - 1) * targets * (shape.channels * FLOAT * shape.dim + ID)
    of_target = (sums + shape.channels) * (2 * FLOAT + 2 * ID)
    return {"ranking": gathered + W * (targets * of_target + ID)}
