"""The files of a checkpoint, in safetensors, which any number of ranks can read at any ZeRO stage.

A checkpoint of W ranks has W files. Every parameter and each of its moments, flat and in float32,
is cut into W parts; the file of rank r holds the r-th part of each, and Adam's step count. The
parts are equal, or the rows of each rank's own items, whose start the file states. A reader joins
what it needs of them. The same holds for tensors that the model keeps for several steps.
"""

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, distributed

from mdsrec.errors import InputError
from training.checkpoints.tensor_file import write_tensors
from training.distributed.engine_protocol import Engine
from training.distributed.zero_state import (
    KINDS,
    create_moments,
    full_shapes,
    held_state,
    num_steps_taken,
    own_range,
    set_held_state,
    set_steps_taken,
)
from training.models.base import Model

STATE = "state.json"
STARTS = "starts"  # in the metadata of a file: the first element of each part that is owned
KEPT = "kept"  # kind of the tensors that a model keeps for several steps


Range = tuple[int, int]  # first and last + 1 of the elements of a flat tensor


def save_checkpoint(engine: Engine[Model], folder: Path, state: dict[str, Any]) -> None:
    """Write this rank's file into `folder`; rank 0 adds `state`, the progress of the training.

    Collective. A rank whose disk is full takes part to the end and raises OSError then.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    create_moments(engine)
    own = {key: _own_range(engine, key, size) for key, size in _sizes(engine).items()}
    bounds = {
        key: own[key] or _part_bounds(size, rank, world_size)
        for key, size in _sizes(engine).items()
    }
    parts = (_part(engine, key, own[key], bounds[key]) for key in bounds)
    shapes = {key: (stop - start,) for key, (start, stop) in bounds.items()}
    starts = {key: bounds[key][0] for key, part in own.items() if part is not None}
    metadata = {"steps_taken": str(num_steps_taken(engine)), STARTS: json.dumps(starts)}
    try:
        with _path(folder, rank, world_size).open("wb") as stream:
            write_tensors(stream, shapes, parts, metadata)
    finally:
        for _ in parts:  # after a failed write: the other ranks still gather these
            pass
    if rank == 0:
        (folder / STATE).write_text(json.dumps({"world_size": world_size, "state": state}))


def load_checkpoint(engine: Engine[Model], folder: Path) -> dict[str, Any]:
    """Restore the engine from a checkpoint of any world size and ZeRO stage; return its `state`.

    InputError if a file is missing or torn, or if the parameters are another model's.
    """
    try:
        saved = json.loads((folder / STATE).read_text())
        with ExitStack() as stack:
            files = [
                stack.enter_context(safe_open(_path(folder, rank, saved["world_size"]), "pt"))
                for rank in range(saved["world_size"])
            ]
            _restore(engine, folder, files)
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise InputError(f"{folder}: not a complete checkpoint: {error}") from error
    state: dict[str, Any] = saved["state"]
    return state


def _restore(engine: Engine[Model], folder: Path, files: list[Any]) -> None:
    sizes, keys = _sizes(engine), files[0].keys()
    found = {key: sum(file.get_slice(key).get_shape()[0] for file in files) for key in keys}
    if found != sizes:
        raise InputError(
            f"{folder}: the checkpoint has the parameters of another model: "
            "train from the start with --fresh"
        )
    create_moments(engine)
    for key, size in sizes.items():
        wanted = _own_range(engine, key, size) or (0, size)
        _set_value(engine, key, _join_parts(files, key, size, *wanted))
    set_steps_taken(engine, int(files[0].metadata()["steps_taken"]))


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


def _join_parts(files: list[Any], key: str, size: int, first: int, last: int) -> Tensor:
    """Return elements first <= element < last; only they are read."""
    joined = torch.empty(last - first)
    for rank, file in enumerate(files):
        part = file.get_slice(key)
        start = _starts(file).get(key, _part_bounds(size, rank, len(files))[0])
        lower, upper = max(first, start), min(last, start + part.get_shape()[0])
        if lower < upper:
            joined[lower - first : upper - first] = part[lower - start : upper - start]
    return joined


def _starts(file: Any) -> dict[str, int]:
    """Return the first element of each part that is not one of equal parts."""
    starts: dict[str, int] = json.loads(file.metadata().get(STARTS, "{}"))
    return starts


def _part_bounds(size: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return first and last + 1 of the elements of a flat parameter that a rank writes."""
    return size * rank // world_size, size * (rank + 1) // world_size


def _path(folder: Path, rank: int, world_size: int) -> Path:
    return folder / f"part-{rank:05d}-of-{world_size:05d}.safetensors"
