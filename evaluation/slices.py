"""Kinds of target items: by what an item has, and by how often it was trained."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdsrec import names, schema, tables

TRAINED = {"never trained": 0, "1 to 4 times": 1, "5 to 19 times": 5, "20 times or more": 20}


class Slices(NamedTuple):
    """Items by kind; every item is of one."""

    names: tuple[str, ...]
    kind: NDArray[np.int64]  # [X], a place in `names`

    def of(self, targets: NDArray[np.int32]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Each kind, and which targets are of it."""
        kinds = self.kind[targets]
        return ((name, kinds == place) for place, name in enumerate(self.names))


def by_training(num_train: NDArray[np.int64]) -> Slices:
    """By an item's training events: cold, rare, popular."""
    least = list(TRAINED.values())
    return Slices(tuple(TRAINED), np.searchsorted(least, num_train, side="right") - 1)


def by_presence(items: NDArray[np.int32], num_items: int) -> Slices:
    """By whether an item is among those that have a modality."""
    kind = np.ones(num_items, dtype=np.int64)
    kind[items] = 0
    return Slices(("with", "without"), kind)


def slices_of(root: str, modalities: Sequence[str], num_items: int) -> dict[str, Slices]:
    """Every way of telling a data set's items apart, by what it goes by."""
    found = {}
    for modality in modalities:
        uri = tables.table_uri(root, names.features_name(modality))
        items = tables.read_table(uri, schema.FEATURES, ["item"])["item"].to_numpy()
        found[modality] = by_presence(items, num_items)
    events = tables.read_table(tables.table_uri(root, "items"), schema.ITEMS, ["num_train"])
    return {**found, "training events": by_training(events["num_train"].to_numpy())}
