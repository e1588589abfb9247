"""Partitions of the targets: by modality, category and training events of the item, history length.

A slicing puts every target into exactly one of its slices. One of items holds a byte per item; one
of users reads what it needs of the table `sequences` when it is needed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evaluation.stored.table_rows import TableRows
from mdsrec import schema, table_names, tables
from mdsrec.arrays import Counts, Floats, Ints

# Name of each slice and its lowest count.
TRAINED = {"never trained": 0, "1 to 4 times": 1, "5 to 19 times": 5, "20 times or more": 20}
HISTORY = {"up to 4 events": 0, "5 to 9 events": 5, "10 to 19 events": 10, "20 events or more": 20}
TRAINING_EVENTS, USER_HISTORY = "training events", "history"  # names of slicings
CATEGORY = "category"

MIN_EVENTS = 50  # of a slice that a page shows figures of: one event counts for at most .02


class ByPlace(Protocol):
    """Numbers by item or by user: an array, or a reader of a column."""

    def __getitem__(self, places: Counts, /) -> Ints: ...


class Slicing(NamedTuple):
    """A partition of the targets by their item or by their user."""

    names: tuple[str, ...]  # of the slices
    slice_of: ByPlace  # index into `names`, by item or by user
    of_users: bool = False

    def slices(self, users: Counts, items: Counts) -> Ints:
        """Return the slice of each target -> [targets]."""
        return self.slice_of[users if self.of_users else items]


class SliceSums:
    """Means over the targets of each slice of a slicing, of targets that arrive in parts.

    S slices, M metrics. Values are added one after the other, so the parts do not decide the bits.
    """

    def __init__(self, slicing: Slicing, num_metrics: int) -> None:
        self._slicing = slicing
        self.targets = np.zeros(len(slicing.names), dtype=np.int64)
        self._sums_SM = np.zeros((len(slicing.names), num_metrics))

    def add(self, users: Counts, items: Counts, values: Floats) -> None:
        """Add targets, given by user and item, with the metrics [targets, M] of each."""
        slices, num_slices = self._slicing.slices(users, items), len(self.targets)
        self.targets += np.bincount(slices, minlength=num_slices)
        places = np.concatenate([np.arange(num_slices), slices])
        for column in range(values.shape[1]):
            terms = np.concatenate([self._sums_SM[:, column], values[:, column]])
            self._sums_SM[:, column] = np.bincount(places, terms)

    def means(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return the means of the metrics by slice; {} for a slice without targets."""
        return {
            name: dict(zip(names, (sums / count).tolist(), strict=True)) if count else {}
            for name, count, sums in zip(
                self._slicing.names, self.targets, self._sums_SM, strict=True
            )
        }


class TrainingEvents:
    """The number of training events of users, read from the table `sequences`."""

    def __init__(self, root: str) -> None:
        uri = tables.table_uri(root, "sequences")
        self._rows = TableRows(uri, schema.SEQUENCES, ["train_end"])

    def __getitem__(self, users: Counts) -> Counts:
        distinct, places = np.unique(users, return_inverse=True)
        events: Counts = self._rows.at(distinct)["train_end"].to_numpy().astype(np.int64)
        return events[places]


@dataclass(frozen=True)
class HistorySlices:
    """The slice of each user, by its number of training events."""

    num_events: ByPlace

    def __getitem__(self, users: Counts) -> Ints:
        return _step_index(HISTORY, self.num_events[users])


def by_training(parts: Iterable[Ints]) -> Slicing:
    """Slice by the item's number of training events; `parts` hold those of all items, in order."""
    none = np.empty(0, dtype=np.int8)
    slices = np.concatenate([none, *(_step_index(TRAINED, part) for part in parts)])
    return Slicing(tuple(TRAINED), slices)


def by_history(num_events: ByPlace) -> Slicing:
    """Slice by the user's number of training events."""
    return Slicing(tuple(HISTORY), HistorySlices(num_events), of_users=True)


def by_presence(parts: Iterable[Ints], num_items: int) -> Slicing:
    """Slice by whether the item is in one of `parts`, those that have a modality."""
    slice_of = np.ones(num_items, dtype=np.int8)
    for items in parts:
        slice_of[items] = 0
    return Slicing(("with", "without"), slice_of)


def by_category(parts: Iterable[pa.Array], names: Sequence[str]) -> Slicing:
    """Slice by the item's category, one of `names`; `parts` hold those of all items, in order."""
    slices = [np.empty(0, dtype=np.int16)]
    for part in parts:
        slices.append(pc.index_in(part, pa.array(names)).to_numpy().astype(np.int16))
    return Slicing(tuple(names), np.concatenate(slices))


def modalities_of_data(root: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the modalities `names` whose vectors are of the current items.

    Slices belong to the data, so they include modalities that a model does not use.
    """
    return tuple(name for name in names if _of_items(root, table_names.features_name(name)))


def _of_items(root: str, name: str) -> tables.Manifest | None:
    """Return the manifest of a table; None if it does not exist or was made for other items."""
    items = tables.read_manifest(tables.table_uri(root, "items"))
    found = tables.read_manifest(tables.table_uri(root, name))
    if items is None or found is None:
        return None
    return found if found.inputs.get("items", items.fingerprint) == items.fingerprint else None


def read_slicings(root: str, modalities: tuple[str, ...], num_items: int) -> dict[str, Slicing]:
    """Build all slicings of a data set: by each modality, category, training events, history."""
    slicings = {}
    for modality in modalities:
        uri = tables.table_uri(root, table_names.features_name(modality))
        slicings[modality] = by_presence(_numbers(uri, schema.FEATURES, "item"), num_items)
    if manifest := _of_items(root, table_names.CATEGORIES):
        uri = tables.table_uri(root, table_names.CATEGORIES)
        column = _column(uri, schema.CATEGORIES, "category")
        slicings[CATEGORY] = by_category(column, tuple(manifest.counters))
    num_train = _numbers(tables.table_uri(root, "items"), schema.ITEMS, "num_train")
    return {
        **slicings,
        TRAINING_EVENTS: by_training(num_train),
        USER_HISTORY: by_history(TrainingEvents(root)),
    }


def _numbers(uri: str, table_schema: pa.Schema, column: str) -> Iterator[Ints]:
    """Yield a column of integers in batches."""
    yield from (part.to_numpy() for part in _column(uri, table_schema, column))


def _column(uri: str, table_schema: pa.Schema, column: str) -> Iterator[pa.Array]:
    for batch in tables.stream_table(uri, tables.open_table(uri), table_schema, [column]):
        yield batch.column(0)


def _step_index(lowest: dict[str, int], counts: Ints) -> NDArray[np.int8]:
    """Return the index of the last slice whose lowest count each count reaches."""
    return (np.searchsorted(list(lowest.values()), counts, side="right") - 1).astype(np.int8)
