"""Choice of the GPU that a Spark task computes on."""

import os
from functools import cache

from pyspark import TaskContext

from mdsrec.errors import InputError


def gpu_of_task(num_gpus: int) -> int:
    """Return the index of the GPU for this task, below `num_gpus`.

    It is the GPU that Spark assigned to the task. Without GPU scheduling, all tasks of a worker
    process share one.
    """
    context = TaskContext.get()
    assigned = context.resources().get("gpu") if context else None
    if assigned is None:
        return _first_partition_of_process() % num_gpus
    address = assigned.addresses[0]
    return int(address) % num_gpus if address.isdigit() else _index_of_uuid(address, num_gpus)


def _index_of_uuid(address: str, num_gpus: int) -> int:
    """Return the index of an address like GPU-8932f937-... or MIG-... among the visible GPUs.

    InputError if it is not one of them.
    """
    if num_gpus == 1:
        return 0  # a process sees one MIG device at most
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if address in visible:
        return visible.index(address)
    import torch

    uuids = [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(num_gpus)]
    if address not in uuids:
        raise InputError(
            f"Spark assigned the GPU {address} to a task that sees {', '.join(uuids)}: let the "
            "script of spark.executor.resource.gpu.discoveryScript print indices"
        )
    return uuids.index(address)


@cache
def _first_partition_of_process() -> int:
    """Return the partition of the first task in this process.

    It is cached, so a model that the process loads is on one GPU only.
    """
    context = TaskContext.get()
    return context.partitionId() if context else 0
