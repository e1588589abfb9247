"""The number of trials that a cluster can run in parallel."""

from collections.abc import Sequence
from typing import NamedTuple

import ray

from mdsrec.config import Experiment
from mdsrec.errors import InputError
from training.distributed.ray_session import capacity, uses_gpu

# Resources of the process that drives the workers of a trial. It takes no CPU: after a loss of
# nodes, drivers that hold shares of the last node would wait for each other forever.
DRIVER_RESOURCES = {"memory": 512 << 20}
SLACK = 1e-6  # Ray counts in ten-thousandths


class Machine(NamedTuple):
    cpus: float
    gpus: float


class TrialSize(NamedTuple):
    """The number of workers of a trial, and the resources of each worker."""

    workers: int
    cpus: float
    gpus: int

    def __str__(self) -> str:
        gpu = f" and {self.gpus} GPU" if self.gpus else ""
        return f"{self.workers} workers of {self.cpus:g} CPUs{gpu}"


def trial_size(experiment: Experiment) -> TrialSize:
    config = experiment.train
    return TrialSize(config.num_workers, config.cpus_requested, int(uses_gpu(experiment)))


def cluster_machines() -> list[Machine]:
    """Return the nodes of the cluster, and one more for the resources its autoscaler may add."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    found = [Machine(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    most = capacity()
    to_add = Machine(
        most["CPU"] - sum(m.cpus for m in found), most["GPU"] - sum(m.gpus for m in found)
    )
    return [*found, to_add] if max(to_add) > SLACK else found


def max_parallel_trials(size: TrialSize, machines: Sequence[Machine], limit: int) -> int:
    """Return the number of trials that fit on the machines at once, at most `limit`.

    Raises InputError if not even one fits; it would wait forever.
    """
    free, count = list(machines), 0
    while count < limit and _reserve(size, free):
        count += 1
    if not count:
        has = " + ".join(f"{m.cpus:g} CPUs, {m.gpus:g} GPUs" for m in machines)
        raise InputError(
            f"a trial needs {size}; the cluster has {has}: lower train.num_workers or "
            "train.cpus_per_worker"
        )
    return count


def _reserve(size: TrialSize, free: list[Machine]) -> bool:
    """Subtract a trial from the free resources. Return False if it does not fit.

    The workers of a trial may run on different machines.
    """
    for _ in range(size.workers):
        fitting = [
            at
            for at, machine in enumerate(free)
            if machine.cpus + SLACK >= size.cpus and machine.gpus >= size.gpus
        ]
        if not fitting:
            return False
        at = fitting[0]
        free[at] = Machine(free[at].cpus - size.cpus, free[at].gpus - size.gpus)
    return True
