"""The files of a checkpoint, in safetensors, which any number of ranks can read at any ZeRO stage.

A checkpoint of W ranks has W files. Every parameter and each of its moments, flat and in float32,
is cut into W parts; the file of rank r holds the r-th part of each, and Adam's step count. The
parts are equal, or the rows of each rank's own items, whose start the file states. A reader joins
what it needs of them. The same holds for tensors that the model keeps for several steps.
"""

import json
import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from mdsrec import files
from mdsrec.errors import InputError
from training.checkpoints.owned_rows import OwnedRows
from training.checkpoints.stored_parts import STARTS, StoredParts, part_bounds
from training.checkpoints.tensor_file import ITEMS, TensorFile, write_tensors
from training.distributed.engine_protocol import Engine
from training.distributed.zero_state import (
    KINDS,
    create_moments,
    full_shapes,
    held_state,
    num_steps_taken,
    own_items,
    own_range,
    set_held_state,
    set_steps_taken,
)
from training.models.base import Model
from training.sharding.owners import rank_and_world_size

STATE = "state.json"
KEPT = "kept"  # kind of the tensors that a model keeps for several steps

Range = tuple[int, int]  # first and last + 1 of the elements of a flat tensor


def save_checkpoint(engine: Engine[Model], folder: Path, state: dict[str, Any]) -> None:
    """Write this rank's file into `folder`; rank 0 adds `state`, the progress of the training.

    Collective. A rank whose disk is full takes part to the end and raises OSError then.
    """
    rank, world_size = rank_and_world_size(engine.module.owners)
    create_moments(engine)
    own = {key: _own_range(engine, key, size) for key, size in _sizes(engine).items()}
    equal = {key: part_bounds(n, rank, world_size) for key, n in _sizes(engine).items()}
    bounds = {**equal, **{key: part for key, part in own.items() if part is not None}}
    parts: Iterator[Tensor] = (_part(engine, key, own[key], bounds[key]) for key in bounds)
    shapes = {key: (stop - start,) for key, (start, stop) in bounds.items()}
    starts = {key: bounds[key][0] for key, part in own.items() if part is not None}
    items = own_items(engine)
    if items is not None:
        shapes[ITEMS], parts = (len(items),), chain(parts, [items])
    metadata = {"steps_taken": str(num_steps_taken(engine)), STARTS: json.dumps(starts)}
    try:
        with (folder / part_name(rank, world_size)).open("wb") as stream:
            write_tensors(stream, shapes, parts, metadata)
    finally:
        for _ in parts:  # after a failed write: the other ranks still gather these
            pass
    if rank == 0:
        (folder / STATE).write_text(json.dumps({"world_size": world_size, "state": state}))


def load_checkpoint(engine: Engine[Model], uri: str) -> dict[str, Any]:
    """Restore the engine from a checkpoint of any world size and ZeRO stage; return its `state`.

    InputError if a file is missing or torn, or if the parameters are another model's.
    """
    try:
        saved = json.loads(files.read_bytes(files.join(uri, STATE)) or b"")
        names = [part_name(rank, saved["world_size"]) for rank in range(saved["world_size"])]
        stored = StoredParts([TensorFile.open(files.join(uri, name)) for name in names])
        _restore(engine, uri, stored)
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{uri}: not a complete checkpoint: {error}") from error
    state: dict[str, Any] = saved["state"]
    return state


def _restore(engine: Engine[Model], uri: str, stored: StoredParts) -> None:
    sizes = _sizes(engine)
    if stored.sizes != sizes:
        raise InputError(
            f"{uri}: the checkpoint has the parameters of another model: "
            "train from the start with --fresh"
        )
    create_moments(engine)
    owners = engine.module.owners
    owned = None if owners is None else OwnedRows(stored, owners)
    for key, size in sizes.items():
        kind, name = key.split("/", 1)
        if owned is not None and _own_range(engine, key, size) is not None:
            owned.read(key, held_state(engine, name, kind))  # in place
        elif stored.has_order(key):
            num_items = full_shapes(engine)[name][0]
            _set_value(engine, key, stored.in_order(key, num_items))
        else:
            _set_value(engine, key, stored.elements(key, 0, size))
    set_steps_taken(engine, stored.steps_taken)


def _sizes(engine: Engine[Model]) -> dict[str, int]:
    """Return the number of elements of everything in a checkpoint, by its key."""
    sizes = {name: math.prod(shape) for name, shape in full_shapes(engine).items()}
    by_kind = {f"{kind}/{name}": size for name, size in sizes.items() for kind in KINDS}
    return by_kind | {f"{KEPT}/{name}": t.numel() for name, t in engine.module.kept().items()}


def _own_range(engine: Engine[Model], key: str, size: int) -> Range | None:
    """Return the elements that this rank owns; None if every rank can read all."""
    kind, name = key.split("/", 1)
    return None if kind == KEPT else own_range(engine, name, size)


def _part(engine: Engine[Model], key: str, own: Range | None, bounds: Range) -> Tensor:
    """Return the elements that this rank writes. Collective."""
    kind, name = key.split("/", 1)
    if kind == KEPT:
        return engine.module.kept()[name].flatten()[slice(*bounds)]
    held = held_state(engine, name, kind)
    return held[slice(*bounds)] if own is None else held


def _set_value(engine: Engine[Model], key: str, value: Tensor) -> None:
    kind, name = key.split("/", 1)
    if kind == KEPT:
        engine.module.kept()[name].view(-1).copy_(value)
    else:
        set_held_state(engine, name, kind, value)


def part_name(rank: int, world_size: int) -> str:
    """Return the name of a rank's file in a checkpoint."""
    return f"part-{rank:05d}-of-{world_size:05d}.safetensors"
