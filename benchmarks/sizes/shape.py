"""The sizes that the formulas are functions of: of the model, and counted ones of a rank's step.

X items, n own ones, W ranks, D width, M modalities, C = 1 + M channels, H neighbors, K centers.
"""

from typing import NamedTuple

from mdsrec.config import Experiment, MDSRecConfig


class Shape(NamedTuple):
    """A catalogue, the MDSRec that is trained on it, and the ranks."""

    items: int
    dim: int = 128
    workers: int = 64
    modalities: int = 2
    neighbors: int = 10  # H, the item itself included if it is one
    centers: int = 32
    cooccurring: int = 100  # entries of O an item
    layers: int = 2
    heads: int = 2
    inner_dim: int = 256
    negatives: int = 1000
    own: int = 0  # items of the rank; 0: an equal share

    @property
    def channels(self) -> int:
        return 1 + self.modalities

    @property
    def own_items(self) -> int:
        """Return n."""
        return self.own or -(-self.items // self.workers)

    @classmethod
    def of(cls, experiment: Experiment, items: int, workers: int, cooccurring: int) -> "Shape":
        """Return the shape of an experiment with MDSRec."""
        model = experiment.model
        assert isinstance(model, MDSRecConfig)
        return cls(
            items,
            model.dim,
            workers,
            len(experiment.modalities),
            model.num_neighbors + model.include_self,
            model.num_centers,
            cooccurring,
            model.num_layers,
            model.num_heads,
            model.inner_dim,
            experiment.train.num_negatives,
        )


class Graphs(NamedTuple):
    """Counted entries of a rank's graphs."""

    neighbors: int  # in the lists of own items, all modalities
    cooccurring: int  # of N(O) in own columns
    cooccurring_rows: int  # rows with such an entry
    centers: int  # of C Ahat in own columns, all modalities


class Counts(NamedTuple):
    """What one rank reads, sends and computes in one step, all of its batches together."""

    sequences: int  # B
    length: int  # T, padded
    prefixes: int  # P of this rank
    prefixes_of_others: int
    items: int  # distinct input items, whose rows of N(O) E it reads
    items_of_others: int
    near_entries: int  # of N(O), in own columns, of the items of all ranks
    scored: int  # items in the sampled softmax
    rows: int  # R, distinct rows of E
    rows_read: int  # those that other ranks own
    rows_lent: int  # own rows that other ranks read
    list_entries: int  # in the neighbor lists of input and scored items, all modalities
    lists_read: int  # neighbor lists of other ranks' items
    lists_lent: int
    entries_lent: int  # in these lists
    halo_read: int  # h, neighbors of own items that others own
    halo_lent: int


def expected_counts(shape: Shape, sequences: int, length: int) -> Counts:
    """Return the counts of a rank if no item occurs twice, which is the most that is possible.

    The ranks are alike, and items and neighbors are spread over them evenly.
    """
    remote = 1 - 1 / shape.workers
    prefixes = items = sequences * length
    scored = shape.negatives + prefixes
    lists = shape.modalities * (items + scored)
    rows = min(shape.items, items + scored + lists * shape.neighbors)
    halo = min(shape.items, shape.own_items * shape.modalities * shape.neighbors)
    others = shape.workers - 1
    return Counts(
        sequences,
        length,
        prefixes,
        prefixes_of_others=prefixes * others,
        items=items,
        items_of_others=items * others,
        near_entries=items * shape.cooccurring,
        scored=scored,
        rows=rows,
        rows_read=round(remote * rows),
        rows_lent=round(remote * rows),
        list_entries=lists * shape.neighbors,
        lists_read=round(remote * lists),
        lists_lent=round(remote * lists),
        entries_lent=round(remote * lists * shape.neighbors),
        halo_read=round(remote * halo),
        halo_lent=round(remote * halo),
    )


def replicated_counts(shape: Shape, counts: Counts) -> tuple[Shape, Counts, Graphs]:
    """Return the shape, counts and graphs of a rank that holds all items and has its own batch."""
    whole = shape._replace(workers=1, own=0)
    near = counts.items * shape.cooccurring
    own = counts._replace(prefixes_of_others=0, items_of_others=0, near_entries=near)
    return whole, own, expected_graphs(whole)


def expected_graphs(shape: Shape) -> Graphs:
    """Return the entries if every item has all neighbors, and no two entries share a row."""
    neighbors = shape.own_items * shape.modalities * shape.neighbors
    cooccurring = shape.own_items * shape.cooccurring
    return Graphs(neighbors, cooccurring, min(shape.items, cooccurring), neighbors)
