"""Which of a machine's GPUs a task computes on."""

from functools import cache

from pyspark import TaskContext


def gpu_of_task(count: int) -> int:
    """Of `count` GPUs the one that Spark lends the task; where it lends none, one that all tasks of
    a worker process share.
    """
    context = TaskContext.get()
    lent = context.resources().get("gpu") if context else None
    return (int(lent.addresses[0]) if lent else _first_partition()) % count


@cache
def _first_partition() -> int:
    """The first task of a process decides: what it loads is loaded on one GPU, not on each."""
    context = TaskContext.get()
    return context.partitionId() if context else 0
