"""Every node of the cluster, looked at from where the work will run, before any work."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import node as on_node
from cluster import reach
from cluster.findings import GIB, Node, failures_of
from cluster.node import Facts
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from training.distributed.ray_session import check_capacity, ray_session, uses_gpu

log = logging.getLogger("cluster")

ANSWER = 180  # seconds that a node has to tell its facts, a first import of torch included
MEET = 60  # seconds for all nodes to meet in a collective


COLUMNS = ("node", "address", "CPUs", "GPUs", "versions", "root", "/tmp", "/dev/shm", "reached")


@dataclass(frozen=True)
class Findings:
    driver: Facts
    nodes: tuple[Node, ...]
    failures: tuple[str, ...]

    def table(self) -> str:
        """The versions that all should have, and a line a node."""
        versions = ", ".join(f"{name} {found}" for name, found in self.driver.versions.items())
        rows = [COLUMNS, *(_row(node, self.driver) for node in self.nodes)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join([versions, *lines])


def look(experiment: Experiment) -> Findings:
    """Ask every node that is alive. Nothing is left behind."""
    shared = reach.SharedRoot(experiment.root)
    shared.say()
    try:
        with ray_session():
            driver = on_node.facts(experiment.root)
            nodes = _met(_seen(_alive(), shared))
            failures = [line for node in nodes for line in failures_of(node, driver, shared.root)]
            failures += _capacity(experiment)
    finally:
        shared.forget()
    return Findings(driver, tuple(nodes), tuple(failures))


def _alive() -> dict[str, Node]:
    """Nodes by Ray's id, in order of their addresses."""
    return {
        found["NodeID"]: Node(
            found["NodeManagerHostname"],
            found["NodeManagerAddress"],
            found["Resources"].get("CPU", 0.0),
            found["Resources"].get("GPU", 0.0),
        )
        for found in sorted(ray.nodes(), key=lambda found: str(found["NodeManagerAddress"]))
        if found["Alive"]
    }


def _seen(nodes: dict[str, Node], shared: reach.SharedRoot) -> dict[str, Node]:
    """With the facts of each, and whether it shares the root; without those that left meanwhile."""
    answers = _asked(nodes, _look, [(shared, key) for key in nodes], ANSWER)
    here = _alive()
    for node in (nodes[key] for key in nodes if key not in here):
        log.warning("%s left the cluster while it was looked at", node.label)
    return {
        key: replace(node, silence=answer)
        if isinstance(answer, str)
        else replace(node, facts=answer[0], root=answer[1] or shared.unheard(key))
        for (key, node), answer in zip(nodes.items(), answers, strict=True)
        if key in here
    }


def _look(shared: reach.SharedRoot, key: str) -> tuple[Facts, str]:
    return on_node.facts(shared.root), shared.answer(key)


def _met(nodes: dict[str, Node]) -> list[Node]:
    """With what kept each from an all-reduce over those that can take part."""
    able = {
        key: node for key, node in nodes.items() if node.facts and "torch" not in node.facts.missing
    }
    _store, port = reach.meeting(len(able))
    host, size = ray.util.get_node_ip_address(), len(able)
    arguments = [(host, port, rank, size, MEET) for rank in range(size)]
    answers = dict(zip(able, _asked(able, reach.all_reduce, arguments, 2 * MEET), strict=True))
    return [replace(node, collective=answers.get(key, "")) for key, node in nodes.items()]


def _asked(
    nodes: dict[str, Node], task: Callable[..., Any], arguments: Sequence[Any], seconds: float
) -> list[Any]:
    """What `task` returns on each node; of one that fails or is late, why."""
    calls = [
        ray.remote(num_cpus=0, max_calls=1, max_retries=0)(task)
        .options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(key, soft=False),
        )
        .remote(*given)
        for key, given in zip(nodes, arguments, strict=True)
    ]
    ray.wait(calls, num_returns=len(calls), timeout=seconds)
    return [_answer(call, seconds) for call in calls]


def _answer(call: Any, seconds: float) -> Any:
    try:
        return ray.get(call, timeout=0)
    except GetTimeoutError:
        ray.cancel(call, force=True)
        return f"nothing came in {seconds:g} s"
    except RayError as error:
        return str(error).strip().splitlines()[-1]


def _capacity(experiment: Experiment) -> list[str]:
    try:
        check_capacity(experiment, uses_gpu(experiment))
    except InputError as error:
        return [str(error)]
    return []


def _row(node: Node, driver: Facts) -> Sequence[str]:
    facts = node.facts
    if facts is None:
        return (node.name, node.address, f"{node.cpus:g}", f"{node.gpus:g}", *["?"] * 5)
    free = [f"{bytes_ / GIB:.1f} GiB" for bytes_ in facts.free.values()]
    root_free = free[0] if len(free) > 1 else "shared"
    return (
        node.name,
        node.address,
        f"{node.cpus:g}",
        f"{node.gpus:g}",
        "same" if facts.versions == driver.versions else "differ",
        "no" if node.root else root_free,
        free[-1],
        f"{facts.shared_memory / GIB:.1f} GiB",
        "no" if node.collective else "yes",
    )
