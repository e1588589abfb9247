"""Several gloo ranks in processes of this machine, without Ray."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

# Imported once by the server that the ranks are forked from; it takes longer than most tests.
PRELOADED = ["torch", "deepspeed", "training.loop"]


def on_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `function(*arguments)` on every rank and return the results in order of rank."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(
            _one_rank,
            (world_size, folder, function, arguments),
            nprocs=world_size,
            start_method="forkserver",
        )
        return [
            torch.load(Path(folder) / f"rank-{rank}.pt", weights_only=True)
            for rank in range(world_size)
        ]


def _one_rank(
    rank: int,
    world_size: int,
    folder: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world_size))
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    result = function(*arguments)
    distributed.barrier()
    torch.save(result, Path(folder) / f"rank-{rank}.pt")
    distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # a regular exit may crash in threads of destroyed process groups
