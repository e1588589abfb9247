"""Checkpoints that any number of workers reads at any ZeRO stage: safetensors, no pickle.

Of W ranks, rank r writes the r-th of W equal parts of every parameter and of its moments, all in
float32, beside Adam's step count. Whoever reads puts a parameter together from the parts of all.
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
from training.distributed.zero_state import (
    KINDS,
    make_moments,
    set_steps_taken,
    set_whole,
    shapes_of,
    steps_taken,
    whole,
)

STATE = "state.json"


def save_checkpoint(engine: Any, folder: Path, state: dict[str, Any]) -> None:
    """Every rank writes its part into `folder`; rank 0 adds the position in the training."""
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    make_moments(engine)
    bounds = {
        f"{kind}/{name}": _part(math.prod(shape), rank, world_size)
        for name, shape in shapes_of(engine).items()
        for kind in KINDS
    }
    parts = (
        whole(engine, parameter, kind)[slice(*bounds[f"{kind}/{name}"])]
        for name, parameter in engine.module.named_parameters()
        for kind in KINDS
    )
    shapes = {key: (stop - start,) for key, (start, stop) in bounds.items()}
    try:
        with _path(folder, rank, world_size).open("wb") as stream:
            write_tensors(stream, shapes, parts, {"steps_taken": str(steps_taken(engine))})
    finally:
        for _ in parts:  # where the disk is full: the other ranks count on this one
            pass
    if rank == 0:
        (folder / STATE).write_text(json.dumps({"world_size": world_size, "state": state}))


def load_checkpoint(engine: Any, folder: Path) -> dict[str, Any]:
    """Put the engine where `save_checkpoint` left one, whatever its workers and ZeRO stage; the
    state that was saved with it.

    InputError if a part is missing, torn or another model's.
    """
    try:
        saved = json.loads((folder / STATE).read_text())
        with ExitStack() as stack:
            parts = [
                stack.enter_context(safe_open(_path(folder, rank, saved["world_size"]), "pt"))
                for rank in range(saved["world_size"])
            ]
            _load(engine, folder, parts)
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise InputError(f"{folder}: not a whole checkpoint: {error}") from error
    state: dict[str, Any] = saved["state"]
    return state


def _load(engine: Any, folder: Path, parts: list[Any]) -> None:
    sizes = {name: math.prod(shape) for name, shape in shapes_of(engine).items()}
    wanted = {f"{kind}/{name}": size for name, size in sizes.items() for kind in KINDS}
    keys = parts[0].keys()
    held = {key: sum(part.get_slice(key).get_shape()[0] for part in parts) for key in keys}
    if held != wanted:
        raise InputError(f"{folder}: its parameters are another model's: train anew with --fresh")
    make_moments(engine)
    for name, parameter in engine.module.named_parameters():
        for kind in KINDS:
            set_whole(engine, parameter, kind, _joined(parts, f"{kind}/{name}", sizes[name]))
    set_steps_taken(engine, int(parts[0].metadata()["steps_taken"]))


def _joined(parts: list[Any], key: str, size: int) -> Tensor:
    joined = torch.empty(size)
    for rank, part in enumerate(parts):
        joined[slice(*_part(size, rank, len(parts)))] = part.get_tensor(key)
    return joined


def _part(numel: int, rank: int, world_size: int) -> tuple[int, int]:
    """Elements [start, stop) of a flat parameter that rank `rank` writes."""
    return numel * rank // world_size, numel * (rank + 1) // world_size


def _path(folder: Path, rank: int, world_size: int) -> Path:
    return folder / f"part-{rank:05d}-of-{world_size:05d}.safetensors"
