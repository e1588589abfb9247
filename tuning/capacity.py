"""How many trials a cluster holds at a time."""

from collections.abc import Sequence
from typing import NamedTuple

import ray

from mdsrec.config import Experiment
from mdsrec.errors import InputError
from training.distributed.ray_session import capacity, uses_gpu

# What a process that drives a trial's workers asks for. No CPU: after a loss of nodes, drivers that
# hold shares of the last one would wait for each other's for ever.
DRIVER = {"memory": 512 << 20}
SLACK = 1e-6  # Ray counts in ten-thousandths


class Machine(NamedTuple):
    cpus: float
    gpus: float


class Size(NamedTuple):
    """Of a trial: its workers, and what each takes."""

    workers: int
    cpus: float
    gpus: int

    def __str__(self) -> str:
        gpu = f" and {self.gpus} GPU" if self.gpus else ""
        return f"{self.workers} workers of {self.cpus:g} CPUs{gpu}"


def size_of(experiment: Experiment) -> Size:
    config = experiment.train
    return Size(config.num_workers, config.cpus_per_worker, int(uses_gpu(experiment)))


def machines() -> list[Machine]:
    """The cluster's nodes, and one more for what its autoscaler may add."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    found = [Machine(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    most = capacity()
    grown = Machine(
        most["CPU"] - sum(m.cpus for m in found), most["GPU"] - sum(m.gpus for m in found)
    )
    return [*found, grown] if max(grown) > SLACK else found


def trials_at_once(size: Size, machines: Sequence[Machine], at_most: int) -> int:
    """How many trials have room beside each other. InputError if there is none for one, which would
    wait for ever.
    """
    free, count = list(machines), 0
    while count < at_most and _place(size, free):
        count += 1
    if not count:
        has = " + ".join(f"{m.cpus:g} CPUs, {m.gpus:g} GPUs" for m in machines)
        raise InputError(
            f"a trial takes {size}; the cluster has {has}: lower train.num_workers or "
            "train.cpus_per_worker"
        )
    return count


def _place(size: Size, free: list[Machine]) -> bool:
    """Take a trial's share of the free machines, if there is room; its workers may lie apart."""
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
