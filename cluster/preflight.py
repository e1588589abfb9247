"""Preflight: checks of every node of the cluster, made from the driver before any work."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import reach
from cluster.findings import GIB, Node, node_failures, node_remarks, public
from cluster.node import NodeFacts, collect_facts
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.text import text_table
from training.distributed.ray_session import check_capacity, ray_session, uses_gpu

log = logging.getLogger("cluster")

CHECK_SECONDS = 180  # for a node's own checks, which include a first import of torch
ALL_REDUCE_SECONDS = 60  # for all nodes to connect, and again for the sum
GPU_BACKEND, GPU_SUM_BYTES = "nccl", 256 << 20

COLUMNS = (
    *("node", "address", "CPUs", "GPUs", "versions", "root", "/tmp", "/dev/shm", "reached"),
    "NCCL",
)


@dataclass(frozen=True)
class Findings:
    """Everything that a preflight found."""

    driver: NodeFacts
    nodes: tuple[Node, ...]
    failures: tuple[str, ...]
    remarks: tuple[str, ...]  # on what is slow and stops no job

    def table(self) -> str:
        """Return a line with the driver's versions and a table with one line per node."""
        versions = ", ".join(f"{name} {version}" for name, version in self.driver.versions.items())
        rows = [_table_row(node, self.driver) for node in self.nodes]
        return f"{versions}\n{text_table(COLUMNS, rows, num_left=len(COLUMNS))}"


def check_cluster(experiment: Experiment) -> Findings:
    """Check every node that is alive, and delete the files that this needs."""
    shared = reach.SharedRoot(experiment.root)
    shared.write_marker()
    try:
        with ray_session():
            driver = collect_facts(experiment.root)
            nodes_by_id = _with_all_reduce(_with_facts(_alive_nodes(), shared))
            if experiment.train.device != "cpu":
                nodes_by_id = _with_nccl(nodes_by_id)
            nodes = list(nodes_by_id.values())
            failures = [line for node in nodes for line in node_failures(node, driver, shared.root)]
            failures += _capacity_failures(experiment)
    finally:
        shared.delete()
    remarks = [line for node in nodes for line in node_remarks(node)]
    return Findings(driver, tuple(nodes), tuple(failures), tuple(remarks))


def _alive_nodes() -> dict[str, Node]:
    """Return nodes by Ray's id, in order of their addresses."""
    return {
        info["NodeID"]: Node(
            info["NodeManagerHostname"],
            info["NodeManagerAddress"],
            info["Resources"].get("CPU", 0.0),
            info["Resources"].get("GPU", 0.0),
        )
        for info in sorted(ray.nodes(), key=lambda info: str(info["NodeManagerAddress"]))
        if info["Alive"]
    }


def _with_facts(nodes: dict[str, Node], shared: reach.SharedRoot) -> dict[str, Node]:
    """Add the facts of each node and the check of its root; drop nodes that left meanwhile."""
    answers = _run_on_nodes(nodes, _check_node, [(shared, key) for key in nodes], CHECK_SECONDS)
    alive = _alive_nodes()
    for node in (nodes[key] for key in nodes if key not in alive):
        log.warning("%s left the cluster during the preflight", node.label)
    return {
        key: replace(node, no_answer=answer)
        if isinstance(answer, str)
        else replace(node, facts=answer[0], root_failure=answer[1] or shared.check_from_driver(key))
        for (key, node), answer in zip(nodes.items(), answers, strict=True)
        if key in alive
    }


def _check_node(shared: reach.SharedRoot, key: str) -> tuple[NodeFacts, str]:
    # Ray hides all GPUs from a task that requests none. The task's process ends after this check.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    return collect_facts(shared.root), shared.check_from_node(key)


def _with_all_reduce(nodes: dict[str, Node]) -> dict[str, Node]:
    """Add the result of an all-reduce over the nodes that can import torch."""
    able = {
        key: node for key, node in nodes.items() if node.facts and "torch" not in node.facts.missing
    }
    _store, port = reach.open_store(len(able))  # open until the nodes have answered
    host, size = ray.util.get_node_ip_address(), len(able)
    arguments = [(host, port, rank, size, ALL_REDUCE_SECONDS) for rank in range(size)]
    results = _run_on_nodes(able, reach.check_all_reduce, arguments, 2 * ALL_REDUCE_SECONDS)
    failures = dict(zip(able, results, strict=True))
    return {
        key: replace(node, all_reduce_failure=failures.get(key, "")) for key, node in nodes.items()
    }


def _with_nccl(nodes: dict[str, Node]) -> dict[str, Node]:
    """Add the bandwidth of an all-reduce over all GPUs that torch sees, unless some are in use."""
    keys = [
        key
        for key, node in nodes.items()
        if node.facts and node.facts.gpus >= node.gpus
        for _ in range(int(node.gpus))
    ]
    free = ray.available_resources().get("GPU", 0.0)
    if free < len(keys):
        log.warning("NCCL is not checked: of %d GPUs only %g are free", len(keys), free)
        return nodes
    if not keys:
        return nodes
    _store, port = reach.open_store(len(keys))  # open until all have answered
    common = ALL_REDUCE_SECONDS, GPU_BACKEND, GPU_SUM_BYTES
    host = ray.util.get_node_ip_address()
    arguments = [(host, port, rank, len(keys), *common) for rank in range(len(keys))]
    results = _run_on_nodes(
        keys, reach.measure_all_reduce, arguments, 2 * ALL_REDUCE_SECONDS, num_gpus=1
    )
    found = {key: [r for k, r in zip(keys, results, strict=True) if k == key] for key in keys}
    return {
        key: replace(node, nccl=_worst(found[key])) if key in found else node
        for key, node in nodes.items()
    }


def _worst(results: Sequence[str | float]) -> str | float:
    """Return the first reason of a failure, or else the lowest bandwidth."""
    reasons = [result for result in results if isinstance(result, str)]
    return reasons[0] if reasons else min(results)


def _run_on_nodes(
    nodes: Iterable[str],
    task: Callable[..., Any],
    arguments: Sequence[Any],
    seconds: float,
    num_gpus: int = 0,
) -> list[Any]:
    """Run `task` on each node and return its results; for one that fails or is late, the reason.

    `nodes` are Ray's ids, one for each of the `arguments`.
    """
    calls = [
        ray.remote(num_cpus=0, num_gpus=num_gpus, max_calls=1, max_retries=0)(task)
        .options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(key, soft=False),
        )
        .remote(*given)
        for key, given in zip(nodes, arguments, strict=True)
    ]
    ray.wait(calls, num_returns=len(calls), timeout=seconds)
    return [_result_or_reason(call, seconds) for call in calls]


def _result_or_reason(call: Any, seconds: float) -> Any:
    try:
        return ray.get(call, timeout=0)
    except GetTimeoutError:
        ray.cancel(call, force=True)
        return f"no result after {seconds:g} s"
    except RayError as error:
        return str(error).strip().splitlines()[-1]


def _capacity_failures(experiment: Experiment) -> list[str]:
    try:
        check_capacity(experiment, uses_gpu(experiment))
    except InputError as error:
        return [str(error)]
    return []


def _table_row(node: Node, driver: NodeFacts) -> Sequence[str]:
    facts = node.facts
    if facts is None:
        return (node.name, node.address, f"{node.cpus:g}", f"{node.gpus:g}", *["?"] * 6)
    free = [f"{num_bytes / GIB:.1f} GiB" for num_bytes in facts.free.values()]
    root_free = free[0] if len(free) > 1 else "shared"
    return (
        node.name,
        node.address,
        f"{node.cpus:g}",
        f"{node.gpus:g}",
        "same" if _public_versions(facts) == _public_versions(driver) else "differ",
        "no" if node.root_failure else root_free,
        free[-1],
        f"{facts.shared_memory / GIB:.1f} GiB",
        "no" if node.all_reduce_failure else "yes",
        _nccl_text(node.nccl),
    )


def _public_versions(facts: NodeFacts) -> dict[str, str]:
    return {name: public(version) for name, version in facts.versions.items()}


def _nccl_text(nccl: str | float | None) -> str:
    """Return the bandwidth, `yes` for a single GPU, `no`, or `-` if it was not checked."""
    if nccl is None:
        return "-"
    if isinstance(nccl, str):
        return "no"
    return f"{nccl:.1f} GB/s" if nccl else "yes"
