"""The files of a checkpoint, in safetensors, which any number of ranks can read at any ZeRO stage.

A checkpoint of W ranks has W files. Every parameter and each of its moments, flat and in float32,
is cut into W equal parts; the file of rank r holds the r-th part of each, and Adam's step count.
A reader joins the parts. The same holds for tensors that the model keeps for several steps.
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
    full_state,
    num_steps_taken,
    set_full_state,
    set_steps_taken,
)
from training.models.base import Model

STATE = "state.json"
KEPT = "kept"  # kind of the tensors that a model keeps for several steps


def save_checkpoint(engine: Engine[Model], folder: Path, state: dict[str, Any]) -> None:
    """Write this rank's file into `folder`; rank 0 adds `state`, the progress of the training.

    Collective. A rank whose disk is full takes part to the end and raises OSError then.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    create_moments(engine)
    bounds = {key: _part_bounds(n, rank, world_size) for key, n in _sizes(engine).items()}
    parts = (_value(engine, key)[slice(*part)] for key, part in bounds.items())
    shapes = {key: (stop - start,) for key, (start, stop) in bounds.items()}
    try:
        with _path(folder, rank, world_size).open("wb") as stream:
            write_tensors(stream, shapes, parts, {"steps_taken": str(num_steps_taken(engine))})
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
        _set_value(engine, key, _join_parts(files, key, size))
    set_steps_taken(engine, int(files[0].metadata()["steps_taken"]))


def _sizes(engine: Engine[Model]) -> dict[str, int]:
    """Return the number of elements of everything in a checkpoint, by its key."""
    sizes = {name: math.prod(shape) for name, shape in full_shapes(engine).items()}
    by_kind = {f"{kind}/{name}": size for name, size in sizes.items() for kind in KINDS}
    return by_kind | {f"{KEPT}/{name}": t.numel() for name, t in engine.module.kept().items()}


def _value(engine: Engine[Model], key: str) -> Tensor:
    kind, name = key.split("/", 1)
    return engine.module.kept()[name].flatten() if kind == KEPT else full_state(engine, name, kind)


def _set_value(engine: Engine[Model], key: str, value: Tensor) -> None:
    kind, name = key.split("/", 1)
    if kind == KEPT:
        engine.module.kept()[name].view(-1).copy_(value)
    else:
        set_full_state(engine, name, kind, value)


def _join_parts(files: list[Any], key: str, size: int) -> Tensor:
    joined = torch.empty(size)
    for rank, file in enumerate(files):
        joined[slice(*_part_bounds(size, rank, len(files)))] = file.get_tensor(key)
    return joined


def _part_bounds(size: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return first and last + 1 of the elements of a flat parameter that a rank writes."""
    return size * rank // world_size, size * (rank + 1) // world_size


def _path(folder: Path, rank: int, world_size: int) -> Path:
    return folder / f"part-{rank:05d}-of-{world_size:05d}.safetensors"
