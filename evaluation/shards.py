"""Users in shards: fixed ranges of ids, each a Parquet part, whoever makes it."""

from typing import NamedTuple

BATCHES_PER_SHARD = 16


class Shard(NamedTuple):
    """Users [first, last): one Parquet part."""

    number: int
    first: int
    last: int


def shards_of(num_users: int, user_batch: int) -> list[Shard]:
    """All users in shards of 16 batches, the last one shorter."""
    size = BATCHES_PER_SHARD * user_batch
    starts = range(0, num_users, size)
    return [Shard(i, first, min(first + size, num_users)) for i, first in enumerate(starts)]
