"""The files that the other ranks would write of a checkpoint, for a restore of one rank.

A restore reads the header of every file, from each rank's its part of the dense weights, and the
rows of own items. The rows of other ranks are holes, which take no room on the disk.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from training.checkpoints.format import STATE, part_name
from training.checkpoints.stored_parts import STARTS, part_bounds
from training.distributed.engine_protocol import Engine
from training.distributed.zero_state import full_shapes, held_state
from training.models.base import Model
from training.sharding.ownership import Shards


def write_peer_files(engine: Engine[Model], folder: Path, shards: Shards) -> None:
    """Complete the checkpoint in `folder`, which has this rank's file."""
    own = folder / part_name(shards.rank, shards.world_size)
    with safe_open(own, "pt") as file:
        metadata, keys = file.metadata(), list(file.keys())
    for rank in range(shards.world_size):
        if rank != shards.rank:
            _write(engine, folder, shards, rank, keys, metadata["steps_taken"])
    state = {"world_size": shards.world_size, "state": {}}
    (folder / STATE).write_text(json.dumps(state))


def _write(
    engine: Engine[Model], folder: Path, shards: Shards, rank: int, keys: list[str], steps: str
) -> None:
    """Write the file of one rank."""
    assert engine.item_parameters is not None
    shapes, by_rows = full_shapes(engine), engine.item_parameters.weights
    first, last = (int(bound) for bound in shards.bounds[rank : rank + 2])
    header: dict[str, Any] = {}
    dense: dict[int, torch.Tensor] = {}  # by offset
    starts, end = {}, 0
    for key in keys:
        kind, name = key.split("/", 1)
        size = math.prod(shapes[name])
        if name in by_rows:
            width = size // shards.num_items
            start, stop = first * width, last * width
            starts[key] = start
        else:
            start, stop = part_bounds(size, rank, shards.world_size)
            dense[end] = held_state(engine, name, kind)[start:stop]
        offsets = [end, end + 4 * (stop - start)]
        header[key] = {"dtype": "F32", "shape": [stop - start], "data_offsets": offsets}
        end = offsets[1]
    header["__metadata__"] = {"steps_taken": steps, STARTS: json.dumps(starts)}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with (folder / part_name(rank, shards.world_size)).open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for offset, part in dense.items():
            stream.seek(8 + len(encoded) + offset)
            stream.write(part.contiguous().view(torch.uint8).numpy().data)
        stream.truncate(8 + len(encoded) + end)
