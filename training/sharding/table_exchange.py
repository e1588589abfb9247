"""Rows of tables, read once by the ranks together and sent to the ranks that own them.

A rank reads the rows of its own range of items. Where the order of items differs from that of the
table, or a row belongs to the owner of its second item, it goes to another rank.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import torch

from mdsrec.arrays import Ints
from training.sharding.peers import Peers

OwnerOf = Callable[[pa.RecordBatch], Ints]


def to_owners(
    batches: Iterator[pa.RecordBatch], owner_of: OwnerOf, peers: Peers
) -> Iterator[pa.RecordBatch]:
    """Send each row to the rank that `owner_of` names, and yield those for this rank. Collective.

    They come in rounds, one batch of every rank at a time, in the order of ranks.
    """
    if peers.world_size == 1:
        yield from batches
        return
    while True:
        batch = next(batches, None)
        parts = [b""] * peers.world_size if batch is None else _parts(batch, owner_of(batch), peers)
        sizes = [len(part) for part in parts]
        expected = peers.swap_counts(sizes)
        sent = torch.frombuffer(bytearray(b"".join(parts)) or bytearray(1), dtype=torch.uint8)
        found = peers.swap("tables", sent[: sum(sizes)], sizes, expected)
        yield from (batch_of_bytes(part) for part in torch.split(found, expected) if len(part))
        if not any(peers.gather_counts(int(batch is not None))):
            return


def _parts(batch: pa.RecordBatch, owners: Ints, peers: Peers) -> list[bytes]:
    """Return the rows of each rank as bytes, none where there are no rows."""
    parts = []
    for rank in range(peers.world_size):
        rows = batch.take(pa.array(np.flatnonzero(owners == rank)))
        parts.append(bytes_of_batch(rows) if rows.num_rows else b"")
    return parts


def bytes_of_batch(rows: pa.RecordBatch) -> bytes:
    """Return rows in the form in which they travel."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_batch(rows)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def batch_of_bytes(content: torch.Tensor) -> pa.RecordBatch:
    """Return the rows that `bytes_of_batch` wrote, without a copy."""
    with pa.ipc.open_stream(pa.py_buffer(content.numpy())) as stream:
        return stream.read_next_batch()
