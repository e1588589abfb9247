"""The files of a checkpoint, in safetensors, which any number of ranks can read at any ZeRO stage.

A checkpoint of W ranks has W files. Every parameter and each of its moments, flat and in float32,
is cut into W equal parts; the file of rank r holds the r-th part of each, and Adam's step count.
A reader joins the parts.
"""

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, distributed, nn

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

STATE = "state.json"


def save_checkpoint(engine: Engine[nn.Module], folder: Path, state: dict[str, Any]) -> None:
    """Write this rank's file into `folder`; rank 0 adds `state`, the progress of the training.

    Collective. A rank whose disk is full takes part to the end and raises OSError then.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    create_moments(engine)
    bounds = {
        f"{kind}/{name}": _part_bounds(math.prod(shape), rank, world_size)
        for name, shape in full_shapes(engine).items()
        for kind in KINDS
    }
    parts = (
        full_state(engine, parameter, kind)[slice(*bounds[f"{kind}/{name}"])]
        for name, parameter in engine.module.named_parameters()
        for kind in KINDS
    )
    shapes = {key: (stop - start,) for key, (start, stop) in bounds.items()}
    try:
        with _path(folder, rank, world_size).open("wb") as stream:
            write_tensors(stream, shapes, parts, {"steps_taken": str(num_steps_taken(engine))})
    finally:
        for _ in parts:  # after a failed write: the other ranks still gather these
            pass
    if rank == 0:
        (folder / STATE).write_text(json.dumps({"world_size": world_size, "state": state}))


def load_checkpoint(engine: Engine[nn.Module], folder: Path) -> dict[str, Any]:
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


def _restore(engine: Engine[nn.Module], folder: Path, files: list[Any]) -> None:
    sizes = {name: math.prod(shape) for name, shape in full_shapes(engine).items()}
    expected = {f"{kind}/{name}": size for name, size in sizes.items() for kind in KINDS}
    keys = files[0].keys()
    found = {key: sum(file.get_slice(key).get_shape()[0] for file in files) for key in keys}
    if found != expected:
        raise InputError(
            f"{folder}: the checkpoint has the parameters of another model: "
            "train from the start with --fresh"
        )
    create_moments(engine)
    for name, parameter in engine.module.named_parameters():
        for kind in KINDS:
            value = _join_parts(files, f"{kind}/{name}", sizes[name])
            set_full_state(engine, parameter, kind, value)
    set_steps_taken(engine, int(files[0].metadata()["steps_taken"]))


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
