"""The contract between the stages: the Arrow schema of every table, its order and its meaning.

`item` and `user` are dense 0-based integers: ranks of asin and user_id in binary order. Vectors are
lists of fixed width in Parquet; the width stands in the table's manifest (`counters.width`).
"""

import pyarrow as pa

VERSION = 1


INTERACTIONS = pa.schema(
    {
        "file": pa.int32(),  # its position as configured; (file, line) is the input order
        "line": pa.int64(),  # 1-based
        "user_id": pa.string(),
        "asin": pa.string(),
        "time": pa.int64(),  # seconds since 1970; milliseconds in edition 2023
    }
)
"""Every usable review, sorted by (file, line)."""

METADATA = pa.schema(
    {
        "file": pa.int32(),
        "line": pa.int64(),
        "asin": pa.string(),
        "title": pa.string(),
        "features": pa.string(),
        "description": pa.string(),
        "categories": pa.string(),
        "brand": pa.string(),
        "image_url": pa.string(),
    }
)
"""Every usable metadata record, sorted by (file, line); null = the record has none."""

REJECTS = pa.schema(
    {"source": pa.string(), "line": pa.int64(), "reason": pa.string(), "raw": pa.string()}
)
"""Every input line that was not used for being bad, sorted by (source, line)."""

ITEMS = pa.schema(
    {
        "item": pa.int32(),
        "asin": pa.string(),
        "title": pa.string(),
        "text": pa.string(),  # what the encoder sees; null = no text
        "image_url": pa.string(),
        "num_train": pa.int64(),  # training events
    }
)
"""By item."""

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
"""One row a user, events in time order, ties by input order."""

FEATURES = pa.schema({"item": pa.int32(), "vector": pa.list_(pa.float32())})
"""By item; only items that have the modality."""

COOCCURRENCE = pa.schema({"item": pa.int32(), "other": pa.int32(), "score": pa.float64()})
"""O of Eq. 2, both directions, sorted by (item, other)."""

PROPAGATED = pa.schema({"item": pa.int32(), "vector": pa.list_(pa.float32())})
"""N(O) E of Eq. 3 by item, for any mu; only items that co-occur with one that has the modality."""

NEIGHBORS = pa.schema(
    {
        "item": pa.int32(),
        "neighbors": pa.list_(pa.int32()),
        "similarities": pa.list_(pa.float32()),
    }
)
"""Up to H_max an item, most similar first, ties by item; the item itself is not among them."""

CENTERS = pa.schema({"item": pa.int32(), "center": pa.int32()})
"""C of Eq. 10 by item."""

CENTROIDS = pa.schema({"center": pa.int32(), "vector": pa.list_(pa.float32())})
"""By centre."""

RANKS = pa.schema(
    {
        "user": pa.int64(),
        "target": pa.int32(),
        "split": pa.string(),  # valid | test
        "channel": pa.string(),  # all | fused | each modality | popularity
        "better": pa.int64(),  # items that score above the target
        "ties": pa.int64(),  # other items that score as the target does
        "rank": pa.float64(),  # better + 1 + ties / 2
    }
)
"""The evaluator's product, in order of user, split, channel: every metric is a reduction of it."""

RECOMMENDATIONS = pa.schema(
    {
        "user": pa.int64(),
        "items": pa.list_(pa.int32()),  # of the highest whole score (Eq. 22), ties by item
        "scores": pa.list_(pa.float32()),
        "channels": pa.list_(pa.string()),  # the largest term of each score: fused or a modality
    }
)
"""By user: what comes after all events of a user."""

USER_VECTORS = pa.schema({"user": pa.int64(), "vector": pa.list_(pa.float32())})
"""By user; the score of an item is the inner product with its vector."""

ITEM_VECTORS = pa.schema(
    {"item": pa.int32(), "asin": pa.string(), "vector": pa.list_(pa.float32())}
)
"""By item, (1 + modalities) D wide."""
