"""The contract between the stages: schema, order and meaning of every table.

`item` and `user` are dense 0-based integers: the ranks of item_id and user_id in binary order. All
vectors of a table have the same width, written in its manifest as `counters.width`.
"""

import pyarrow as pa

VERSION = 2
"""Tables of another version are built again. Version 2: the column asin is named item_id."""


INTERACTIONS = pa.schema(
    {
        "file": pa.int32(),  # position in the configuration; (file, line) is the input order
        "line": pa.int64(),  # 1-based
        "user_id": pa.string(),
        "item_id": pa.string(),
        "time": pa.int64(),  # seconds since 1970, or milliseconds (as in edition 2023)
    }
)
"""Every usable review, sorted by (file, line)."""

METADATA = pa.schema(
    {
        "file": pa.int32(),
        "line": pa.int64(),
        "item_id": pa.string(),
        "title": pa.string(),
        "features": pa.string(),
        "description": pa.string(),
        "categories": pa.string(),
        "brand": pa.string(),
        "details": pa.string(),  # as `Key: value; Key: value`
        "image_url": pa.string(),
    }
)
"""Every usable metadata record, sorted by (file, line). Null means the record has none.

Its texts are plain, without markup and page script.
"""

REJECTS = pa.schema(
    {"source": pa.string(), "line": pa.int64(), "reason": pa.string(), "raw": pa.string()}
)
"""Every input line that could not be used, sorted by (source, line)."""

ITEMS = pa.schema(
    {
        "item": pa.int32(),
        "item_id": pa.string(),
        "title": pa.string(),
        "text": pa.string(),  # input of the encoder; null means no text
        "image_url": pa.string(),
        "num_train": pa.int64(),  # training events
    }
)
"""Sorted by item."""

CATEGORIES = pa.schema({"item": pa.int32(), "category": pa.string()})
"""Sorted by item; exists where the input has categories."""

SEQUENCES = pa.schema(
    {
        "user": pa.int64(),
        "user_id": pa.string(),
        "items": pa.list_(pa.int32()),
        "times": pa.list_(pa.int64()),
        "train_end": pa.int32(),  # events [0, train_end) are training,
        "valid_end": pa.int32(),  # [train_end, valid_end) validation targets, the rest test targets
    }
)
"""One row per user, sorted by user; events in time order, ties in input order."""

FEATURES = pa.schema({"item": pa.int32(), "vector": pa.list_(pa.float32())})
"""Sorted by item; only items that have the modality."""

COOCCURRENCE = pa.schema({"item": pa.int32(), "other": pa.int32(), "score": pa.float64()})
"""O of Eq. 2, both directions, sorted by (item, other)."""

TRANSITIONS = COOCCURRENCE
"""How often `other` follows `item` in training, plus a share of how often it precedes it; sorted by
(item, other).
"""

PROPAGATED = pa.schema({"item": pa.int32(), "vector": pa.list_(pa.float32())})
"""N(O) E of Eq. 3, sorted by item; only items that co-occur with one that has the modality."""

NEIGHBORS = pa.schema(
    {
        "item": pa.int32(),
        "neighbors": pa.list_(pa.int32()),
        "similarities": pa.list_(pa.float32()),
    }
)
"""Up to H_max neighbors per item, most similar first, ties by item, without the item itself."""

MEMORY = pa.schema({"item": pa.int32(), "other": pa.int32(), "score": pa.float32()})
"""Transitions spread over neighbors, the heaviest of each item, sorted by (item, other)."""

PLACES = pa.schema({"item": pa.int32(), "place": pa.int32()})
"""A permutation of the items, sorted by item: ranks own ranges of places (training/sharding)."""

CENTERS = pa.schema({"item": pa.int32(), "center": pa.int32()})
"""C of Eq. 10, sorted by item."""

CENTROIDS = pa.schema({"center": pa.int32(), "vector": pa.list_(pa.float32())})
"""Sorted by center."""

RANKS = pa.schema(
    {
        "user": pa.int64(),
        "target": pa.int32(),
        "split": pa.string(),  # valid | test
        "channel": pa.string(),  # all | network | fused | each modality | memory | popularity
        "better": pa.int64(),  # number of items that score above the target
        "ties": pa.int64(),  # number of other items with the score of the target
        "rank": pa.float64(),  # better + 1 + ties / 2
    }
)
"""Result of the evaluation, sorted by user, split, channel. Metrics are reductions of it."""

RECOMMENDATIONS = pa.schema(
    {
        "user": pa.int64(),
        "user_id": pa.string(),
        "items": pa.list_(pa.int32()),  # with the highest score (Eq. 22), ties by item
        "item_ids": pa.list_(pa.string()),
        "titles": pa.list_(pa.string()),  # null where an item has none
        "scores": pa.list_(pa.float32()),
        "channels": pa.list_(pa.string()),  # channel with the largest term of each score
    }
)
"""Sorted by user; recommendations after all events of the user."""

HISTORIES = pa.schema({"user": pa.int64(), "user_id": pa.string(), "items": pa.list_(pa.int32())})
"""Users of `recommend --histories`: events, oldest first; `user` counts them."""

RIVALS = pa.schema({"user": pa.int64(), "differences": pa.list_(pa.float32())})
"""One row per validation target, sorted by user: the scores of its rivals minus its own, a number
for each channel, one rival after the other. Weights of the channels are chosen on it.
"""

USER_VECTORS = pa.schema(
    {
        "user": pa.int64(),
        "user_id": pa.string(),
        "vector": pa.list_(pa.float32()),
        "events": pa.list_(pa.int32()),  # items that the memory scores by, the last event first
        "event_weights": pa.list_(pa.float32()),
        "seen": pa.list_(pa.int32()),  # items of the history, if they have a weight
        "seen_weight": pa.float32(),
    }
)
"""Sorted by user. An item's score is the inner product with its vector, plus the terms of the
memory: for each event, its weight times the score of (event, item) in `vectors/memory`. Items of
the history get `seen_weight` more.
"""

ITEM_VECTORS = pa.schema(
    {
        "item": pa.int32(),
        "item_id": pa.string(),
        "title": pa.string(),  # null means it has none
        "vector": pa.list_(pa.float32()),
    }
)
"""Sorted by item; vectors have width (1 + modalities) D."""
