"""Kinds of targets: by what the item has, how often it was trained, and how much the user had."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdsrec import schema, table_names, tables

TRAINED = {"never trained": 0, "1 to 4 times": 1, "5 to 19 times": 5, "20 times or more": 20}
HISTORY = {"up to 4 events": 0, "5 to 9 events": 5, "10 to 19 events": 10, "20 events or more": 20}

Ints = NDArray[np.int64]


class Slices(NamedTuple):
    """Targets by kind; every target is of one."""

    names: tuple[str, ...]
    kind_of: Ints  # a place in `names`, by item or by user
    of_users: bool = False

    def kinds(self, users: Ints, items: Ints) -> Ints:
        """The kind of each target -> [targets]."""
        return self.kind_of[users if self.of_users else items]


def by_training(num_train: Ints) -> Slices:
    """By an item's training events: cold, rare, popular."""
    return Slices(tuple(TRAINED), _steps(TRAINED, num_train))


def by_history(num_events: Ints) -> Slices:
    """By a user's training events."""
    return Slices(tuple(HISTORY), _steps(HISTORY, num_events), of_users=True)


def by_presence(items: NDArray[np.int32], num_items: int) -> Slices:
    """By whether an item is among those that have a modality."""
    kind = np.ones(num_items, dtype=np.int64)
    kind[items] = 0
    return Slices(("with", "without"), kind)


def slices_of(root: str, modalities: tuple[str, ...], num_items: int) -> dict[str, Slices]:
    """Every way of telling a data set's targets apart, by what it goes by."""
    found = {}
    for modality in modalities:
        uri = tables.table_uri(root, table_names.features_name(modality))
        items = tables.read_table(uri, schema.FEATURES, ["item"])["item"].to_numpy()
        found[modality] = by_presence(items, num_items)
    events = tables.read_table(tables.table_uri(root, "items"), schema.ITEMS, ["num_train"])
    users = tables.read_table(tables.table_uri(root, "sequences"), schema.SEQUENCES, ["train_end"])
    return {
        **found,
        "training events": by_training(events["num_train"].to_numpy()),
        "history": by_history(users["train_end"].to_numpy().astype(np.int64)),
    }


def _steps(least: dict[str, int], counts: Ints) -> Ints:
    """The last step that each count reaches."""
    return np.searchsorted(list(least.values()), counts, side="right") - 1
