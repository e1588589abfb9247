"""Partitions of the targets: by modality of the item, training events of the item, history length.

A slicing puts every target into exactly one of its slices.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdsrec import schema, table_names, tables
from mdsrec.arrays import Counts

# Name of each slice and its lowest count.
TRAINED = {"never trained": 0, "1 to 4 times": 1, "5 to 19 times": 5, "20 times or more": 20}
HISTORY = {"up to 4 events": 0, "5 to 9 events": 5, "10 to 19 events": 10, "20 events or more": 20}
TRAINING_EVENTS, USER_HISTORY = "training events", "history"  # names of slicings

MIN_EVENTS = 50  # of a slice that a page shows figures of: one event counts for at most .02


class Slicing(NamedTuple):
    """A partition of the targets by their item or by their user."""

    names: tuple[str, ...]  # of the slices
    slice_of: Counts  # index into `names`, by item or by user
    of_users: bool = False

    def slices(self, users: Counts, items: Counts) -> Counts:
        """Return the slice of each target -> [targets]."""
        return self.slice_of[users if self.of_users else items]


def by_training(num_train: Counts) -> Slicing:
    """Slice by the item's number of training events."""
    return Slicing(tuple(TRAINED), _step_index(TRAINED, num_train))


def by_history(num_events: Counts) -> Slicing:
    """Slice by the user's number of training events."""
    return Slicing(tuple(HISTORY), _step_index(HISTORY, num_events), of_users=True)


def by_presence(items: NDArray[np.int32], num_items: int) -> Slicing:
    """Slice by whether the item is one of `items`, those that have a modality."""
    slice_of = np.ones(num_items, dtype=np.int64)
    slice_of[items] = 0
    return Slicing(("with", "without"), slice_of)


def modalities_of_data(root: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the modalities `names` whose vectors are of the current items.

    Slices belong to the data, so they include modalities that a model does not use.
    """
    items = tables.read_manifest(tables.table_uri(root, "items"))
    found = []
    for name in names:
        uri = tables.table_uri(root, table_names.features_name(name))
        features = tables.read_manifest(uri)
        if (
            items
            and features
            and features.inputs.get("items", items.fingerprint) == items.fingerprint
        ):
            found.append(name)
    return tuple(found)


def read_slicings(root: str, modalities: tuple[str, ...], num_items: int) -> dict[str, Slicing]:
    """Build all slicings of a data set, by name: each modality, training events, history."""
    slicings = {}
    for modality in modalities:
        uri = tables.table_uri(root, table_names.features_name(modality))
        items = tables.read_table(uri, schema.FEATURES, ["item"])["item"].to_numpy()
        slicings[modality] = by_presence(items, num_items)
    events = tables.read_table(tables.table_uri(root, "items"), schema.ITEMS, ["num_train"])
    users = tables.read_table(tables.table_uri(root, "sequences"), schema.SEQUENCES, ["train_end"])
    return {
        **slicings,
        TRAINING_EVENTS: by_training(events["num_train"].to_numpy()),
        USER_HISTORY: by_history(users["train_end"].to_numpy().astype(np.int64)),
    }


def _step_index(lowest: dict[str, int], counts: Counts) -> Counts:
    """Return the index of the last slice whose lowest count each count reaches."""
    return np.searchsorted(list(lowest.values()), counts, side="right") - 1
