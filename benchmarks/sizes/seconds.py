"""Seconds of each part of a training and of its use, from bytes and operations.

A GPU is five numbers. A part takes the time of its slowest resource: memory, links or arithmetic.
Nothing is added for latency, and nothing overlaps, so the seconds of a step are a sum.

n own items, D width, P prefixes of all ranks.
"""

from typing import NamedTuple

from benchmarks.sizes import flops, traffic
from benchmarks.sizes.shape import Counts, Graphs, Shape, expected_graphs, replicated_counts
from mdsrec.errors import InputError

GPUS_OF_HOST = 8
FLOAT = 4


class Gpu(NamedTuple):
    """A GPU and its links, by decimal units."""

    memory_gb: float
    terabytes_per_second: float  # of its memory
    nvlink_gb: float  # a second, to the GPUs of its host
    network_gb: float  # a second, to other hosts and to storage
    teraflops: float  # of matrix products

    @classmethod
    def parse(cls, text: str) -> "Gpu":
        """Return the GPU of five numbers between commas. InputError if they are not that."""
        words = [part.split() for part in text.split(",")]
        try:
            numbers = [float(first) for first, *_ in words]
            assert len(numbers) == 5 and min(numbers) > 0
        except (ValueError, AssertionError):
            raise InputError(
                f'--gpu "{text}": write five numbers: memory GB, TB/s, GB/s of NVLink, GB/s of '
                'network, TFLOPS, as "80, 2, 230, 25, 150"'
            ) from None
        return cls(*numbers)


class Use(NamedTuple):
    """What is done with the trained model."""

    users: int  # who are ranked
    top: int = 20  # items recommended to each
    batch: int = 256  # users ranked together by a rank


class Part(NamedTuple):
    """What one rank moves and computes."""

    read: float = 0.0  # bytes of its memory, written ones included
    sent: float = 0.0  # bytes to other ranks
    stored: float = 0.0  # bytes read from storage, or written to it
    flops: float = 0.0

    def seconds(self, gpu: Gpu, workers: int) -> float:
        """Return the time of the slowest resource."""
        near = (min(workers, GPUS_OF_HOST) - 1) / max(1, workers - 1)
        links = near * self.sent / gpu.nvlink_gb + (1 - near) * self.sent / gpu.network_gb
        return max(
            self.read / (gpu.terabytes_per_second * 1e12),
            links / 1e9,
            self.stored / (gpu.network_gb * 1e9),
            self.flops / (gpu.teraflops * 1e12),
        )


def sharded(shape: Shape, counts: Counts, use: Use) -> dict[str, Part]:
    """Return the parts of one rank where each rank owns items."""
    table = FLOAT * shape.dim * shape.own_items
    graphs = expected_graphs(shape)
    stored = 8 * graphs.cooccurring + 4 * graphs.neighbors
    targets = use.users / shape.workers
    vectors = (1 + shape.channels) * table + FLOAT * shape.dim * graphs.neighbors
    scores = 2 * use.users * shape.own_items * shape.dim * shape.channels
    halo = FLOAT * shape.dim * counts.halo_lent
    sent_ranking = sum(traffic.of_ranking(shape, round(targets)).values())
    return {
        "load": Part(stored=stored, sent=sum(traffic.of_load(shape).values())),
        **{
            f"step, {name} loss": sharded_step(shape, counts, graphs, full)
            for name, full in (("sampled", False), ("full", True))
        },
        "save": Part(stored=3 * table),
        "restore": Part(stored=3 * table),
        **_uses(shape, use, Part(vectors, halo + sent_ranking, table, scores), shape.own_items),
    }


def sharded_step(shape: Shape, counts: Counts, graphs: Graphs, full: bool) -> Part:
    """Return what one rank moves and computes in a step where each rank owns items."""
    return Part(
        read=_read_by_step(shape, counts, graphs, shape.own_items, full),
        sent=sum(traffic.of_step(shape, counts, full).values()),
        flops=sum(flops.of_step(shape, counts, graphs, full).values()),
    )


def replicated(shape: Shape, counts: Counts, use: Use) -> dict[str, Part]:
    """Return the parts of one rank where every rank holds all items (ZeRO stage 1)."""
    whole, own, graphs = replicated_counts(shape, counts)
    table, stored = FLOAT * shape.dim * shape.items, 8 * graphs.cooccurring + 4 * graphs.neighbors
    targets = use.users / shape.workers
    vectors = (1 + shape.channels) * table + FLOAT * shape.dim * graphs.neighbors
    scores = 2 * targets * shape.items * shape.dim * shape.channels
    return {
        "load": Part(stored=stored),
        **{
            f"step, {name} loss": Part(
                read=_read_by_step(whole, own, graphs, shape.own_items, full),
                sent=sum(traffic.of_replicated_step(shape, counts, full).values()),
                flops=sum(flops.of_step(whole, own, graphs, full).values()),
            )
            for name, full in (("sampled", False), ("full", True))
        },
        "save": Part(stored=3 * table / shape.workers),
        "restore": Part(stored=3 * table),
        **_uses(shape, use, Part(vectors, 0, table, scores), shape.items),
    }


def _read_by_step(shape: Shape, counts: Counts, graphs: Graphs, stepped: int, full: bool) -> float:
    """Return the bytes of memory of a step: Adam, C Ahat and N(O) times E, rows, and all vectors.

    `stepped` is how many items' rows the rank's Adam steps.
    """
    row = FLOAT * shape.dim
    adam = 7 * row * stepped
    products = 2 * row * (graphs.centers + counts.near_entries) + 4 * row * counts.rows
    vectors = 4 * row * (graphs.neighbors + shape.channels * shape.own_items) if full else 0
    return adam + products + vectors


def _uses(shape: Shape, use: Use, ranking: Part, items: int) -> dict[str, Part]:
    """Return validation (a target of each user), ranking (two), recommendations and export."""
    top = use.users / shape.workers * use.top * 12
    export = shape.channels * FLOAT * shape.dim * items
    exported = export if items == shape.own_items else export / shape.workers
    return {
        "validation": ranking._replace(stored=0.0),
        "ranking": ranking._replace(sent=2 * ranking.sent, flops=2 * ranking.flops),
        "recommend": ranking._replace(stored=ranking.stored + top),
        "export": Part(read=ranking.read, stored=ranking.stored + exported),
    }
