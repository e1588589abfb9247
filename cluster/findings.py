"""What is wrong with the nodes of a cluster, each in one line with its remedy."""

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.node import SHARED_MEMORY, Facts

GIB = 1 << 30
LEAST_FREE = GIB  # a checkpoint and Ray's logs; docs/cluster.md has the sizes of large runs
LEAST_SHARED_MEMORY = GIB // 2  # containers begin with 64 MiB


@dataclass(frozen=True)
class Node:
    """What is known of a node; of one that did not answer, `silence` says why."""

    name: str
    address: str
    cpus: float  # that it lends to Ray
    gpus: float
    facts: Facts | None = None
    silence: str = ""
    root: str = ""  # what is wrong with it
    collective: str = ""

    @property
    def label(self) -> str:
        return f"{self.name} ({self.address})"


def failures_of(node: Node, driver: Facts, root: str) -> list[str]:
    """Everything that is wrong with one node, in the order of the table."""
    if node.facts is None:
        return [f"{node.label}: did not answer: {node.silence}: see its log, or take it out"]
    found = [*_versions(node.facts, driver), *_gpus(node.facts, node.gpus)]
    if node.root:
        found.append(f"root {root} {node.root}: put it on storage that every node reads and writes")
    found += [*_room(node.facts), *_auth(node.facts, driver)]
    if node.collective:
        found.append(
            f"no all-reduce with the other nodes ({node.collective}): open all ports between the "
            "nodes, and set GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME) to the interface they share"
        )
    return [f"{node.label}: {line}" for line in found]


def _versions(facts: Facts, driver: Facts) -> Iterator[str]:
    for name, version in facts.versions.items():
        expected = driver.versions[name]
        if name in facts.missing:
            yield f"{name} cannot be imported ({version}): install it there"
        elif version != expected and name not in driver.missing:
            yield f"{name} {version}, the driver has {expected}: install the same on every node"


def _gpus(facts: Facts, lent: float) -> Iterator[str]:
    if facts.gpus < lent:
        yield f"lends {lent:g} GPUs, torch sees {facts.gpus}: check driver and CUDA build of torch"
    if lent and not facts.faiss_gpus and "faiss" not in facts.missing:
        yield "faiss sees no GPU: install faiss-gpu in place of faiss-cpu"
    if len(facts.faiss) > 1:
        yield "faiss-cpu and faiss-gpu are both installed and own one folder: keep one of them"


def _room(facts: Facts) -> Iterator[str]:
    for folder, free in facts.free.items():
        if free < LEAST_FREE:
            yield f"{free / GIB:.1f} GiB free at {folder}: make room for {LEAST_FREE / GIB:g} GiB"
    if facts.shared_memory < LEAST_SHARED_MEMORY:
        yield (
            f"{SHARED_MEMORY} has {facts.shared_memory >> 20} MiB: give the container "
            f"{LEAST_SHARED_MEMORY >> 20} MiB or more (--shm-size)"
        )


def _auth(facts: Facts, driver: Facts) -> Iterator[str]:
    if facts.auth != driver.auth:
        yield f"RAY_AUTH_MODE is {facts.auth}, the driver's is {driver.auth}: set the same"
