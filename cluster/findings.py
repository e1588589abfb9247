"""Failures of the nodes of a cluster, each one line with its remedy."""

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.node import SHARED_MEMORY, NodeFacts

GIB = 1 << 30
MIN_FREE = GIB  # a checkpoint and Ray's logs; docs/cluster.md has the sizes of large runs
SLOW_NCCL = 10.0  # GB/s between GPUs; TCP has less
MIN_SHARED_MEMORY = GIB // 2  # a container has 64 MiB by default


@dataclass(frozen=True)
class Node:
    """A node of the Ray cluster and the results of its checks."""

    name: str
    address: str
    cpus: float  # offered to Ray
    gpus: float
    facts: NodeFacts | None = None  # None if the node did not answer
    no_answer: str = ""  # the reason why it did not
    root_failure: str = ""  # what is wrong with the root there
    all_reduce_failure: str = ""
    nccl: str | float | None = None  # GB/s between the GPUs, or what failed; None if not checked

    @property
    def label(self) -> str:
        return f"{self.name} ({self.address})"


def node_failures(node: Node, driver: NodeFacts, root: str) -> list[str]:
    """Return everything that is wrong with one node, in the order of the table's columns."""
    if node.facts is None:
        return [f"{node.label}: did not answer: {node.no_answer}: see its log, or remove the node"]
    found = [*_version_failures(node.facts, driver), *_gpu_failures(node.facts, node.gpus)]
    if node.root_failure:
        found.append(
            f"root {root} {node.root_failure}: put it on storage that every node reads and writes"
        )
    found += [*_space_failures(node.facts), *_auth_failures(node.facts, driver)]
    if node.all_reduce_failure:
        found.append(
            f"no all-reduce with the other nodes ({node.all_reduce_failure}): open all ports "
            "between the nodes, and set GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME) to the interface "
            "they share"
        )
    if isinstance(node.nccl, str):
        found.append(
            f"no all-reduce between the GPUs by NCCL ({node.nccl}): set NCCL_DEBUG=INFO where Ray "
            "starts and see its log"
        )
    return [f"{node.label}: {line}" for line in found]


def node_remarks(node: Node) -> list[str]:
    """Return what is slow on a node and stops no job."""
    found = []
    facts = node.facts
    if facts and node.gpus and not facts.faiss_gpus and "faiss" not in facts.missing:
        found.append("faiss sees no GPU: an ETL there searches on CPUs (training needs no faiss)")
    if isinstance(node.nccl, float) and 0 < node.nccl < SLOW_NCCL:  # it is 0 for a single GPU
        found.append(
            f"NCCL sums {node.nccl:.1f} GB/s between the GPUs: NVLink has 100 or more and "
            "InfiniBand 20 (docs/cluster.md, GPUs)"
        )
    return [f"{node.label}: {line}" for line in found]


def _version_failures(facts: NodeFacts, driver: NodeFacts) -> Iterator[str]:
    for name, version in facts.versions.items():
        expected = driver.versions[name]
        if name in facts.missing:
            yield f"{name} cannot be imported ({version}): install it there"
        elif public(version) != public(expected) and name not in driver.missing:
            yield f"{name} {version}, the driver has {expected}: install the same on every node"


def public(version: str) -> str:
    """Return a version without its build: 2.13.0 of 2.13.0+cu130."""
    return version.partition("+")[0]


def _gpu_failures(facts: NodeFacts, offered: float) -> Iterator[str]:
    if facts.gpus < offered:
        yield (
            f"offers {offered:g} GPUs to Ray, torch sees {facts.gpus}: install a CUDA build of "
            "torch and its NVIDIA driver (CUDA 13 needs R580 or newer)"
        )
    if len(facts.faiss) > 1:
        yield f"{' and '.join(facts.faiss)} are installed and share a folder: keep one of them"


def _space_failures(facts: NodeFacts) -> Iterator[str]:
    for folder, free in facts.free.items():
        if free < MIN_FREE:
            yield f"{free / GIB:.1f} GiB free at {folder}: make room for {MIN_FREE / GIB:g} GiB"
    if facts.shared_memory < MIN_SHARED_MEMORY:
        yield (
            f"{SHARED_MEMORY} has {facts.shared_memory >> 20} MiB: give the container "
            f"{MIN_SHARED_MEMORY >> 20} MiB or more (--shm-size)"
        )


def _auth_failures(facts: NodeFacts, driver: NodeFacts) -> Iterator[str]:
    if facts.auth != driver.auth:
        yield f"RAY_AUTH_MODE is {facts.auth}, the driver's is {driver.auth}: use the same"
