"""Choice of the GPU that a Spark task computes on."""

from functools import cache

from pyspark import TaskContext


def gpu_of_task(num_gpus: int) -> int:
    """Return the index of the GPU for this task, below `num_gpus`.

    It is the GPU that Spark assigned to the task. Without GPU scheduling, all tasks of a worker
    process share one.
    """
    context = TaskContext.get()
    assigned = context.resources().get("gpu") if context else None
    index = int(assigned.addresses[0]) if assigned else _first_partition_of_process()
    return index % num_gpus


@cache
def _first_partition_of_process() -> int:
    """Return the partition of the first task in this process.

    It is cached, so a model that the process loads is on one GPU only.
    """
    context = TaskContext.get()
    return context.partitionId() if context else 0
