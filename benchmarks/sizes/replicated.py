"""The memory of the replicated form: of a GPU, and of the ranks and hosts of a training.

The tables of docs/cluster.md and docs/scale.md. All numbers are float32. A working set that does
not grow with the number of items comes on top.
"""

from typing import Literal, NamedTuple

from mdsrec.text import markdown_table

Offload = Literal["none", "optimizer", "all"]
GIB = 2**30


class Setting(NamedTuple):
    """Workers, their ZeRO stage, and the state that is offloaded to the host's memory."""

    workers: int
    stage: int
    offload: Offload = "none"


def bytes_an_item(dim: int, modalities: int, neighbors: int, setting: Setting) -> float:
    """Return the bytes per item on every GPU, at the peak of training or of validation."""
    workers, stage, offload = setting
    whole, share = 4 * dim, 4 * dim / workers
    weights = whole + (share if stage == 3 and offload != "all" else 0)  # gathered for a step
    adam = 2 * (share if stage else whole)
    master = share if stage in (1, 2) else 0
    state = adam + master if offload == "none" else 0
    gradients = (share if stage >= 2 else whole) + (whole if stage in (1, 2) else 0)
    vectors = whole * (1 + 1 + modalities)  # of each channel, and those that they are scored by
    graphs = 12 * (neighbors + 1) * 2 * modalities  # Ahat^m and C Ahat^m
    return weights + state + max(gradients, vectors) + graphs


CATALOGUES = (  # items, users, D
    (10_000, 100_000, 64),
    (100_000, 1_000_000, 300),
    (1_000_000, 10_000_000, 300),
    (5_000_000, 50_000_000, 300),
    (10_000_000, 100_000_000, 300),
    (50_000_000, 500_000_000, 128),
)
SETTINGS = {
    "1 GPU": Setting(1, 0),
    "1 GPU, Adam on the host": Setting(1, 1, "optimizer"),
    "8 GPUs, ZeRO 1": Setting(8, 1),
    "64 GPUs, ZeRO 1": Setting(64, 1),
    "64 GPUs, ZeRO 3": Setting(64, 3),
    "64 GPUs, ZeRO 3, all on the host": Setting(64, 3, "all"),
}
MODALITIES, NEIGHBORS = 2, 10


def table() -> str:
    """Return the GiB per GPU of each catalogue, as the Markdown of docs/cluster.md."""
    rows = []
    for items, users, dim in CATALOGUES:
        sizes = (bytes_an_item(dim, MODALITIES, NEIGHBORS, s) for s in SETTINGS.values())
        memory = [f"{items * size / GIB:.2f}" for size in sizes]
        rows.append([f"{items:,}", f"{users:,}", f"{dim}", *memory])
    return markdown_table(["items", "users", "D", *SETTINGS], rows)


class Graphs(NamedTuple):
    """Sizes of the graphs of a catalogue."""

    modalities: int
    neighbors: int  # H
    cooccurring: int  # entries of O an item, or graph.max_cooccurrences if that is fewer


def table_bytes(items: int, dim: int) -> int:
    """Return the bytes of E, which every rank holds whole."""
    return 4 * items * dim


def adam_bytes(items: int, dim: int, workers: int, stage: int) -> int:
    """Return the bytes of Adam's moments on a rank."""
    return 2 * table_bytes(items, dim) // (workers if stage else 1)


def gradient_bytes(items: int, dim: int, by_rows: bool) -> int:
    """Return the bytes of the gradient of E; none where it travels as rows."""
    return 0 if by_rows else table_bytes(items, dim)


def neighbor_bytes(items: int, graphs: Graphs) -> int:
    """Return the bytes of Ahat^m of all modalities, of which the ranks of a host share a copy."""
    return graphs.modalities * items * (8 + 8 * (graphs.neighbors + 1))


def cooccurrence_bytes(items: int, graphs: Graphs) -> int:
    """Return the bytes of N(O), of which the ranks of a host share a copy."""
    return items * (8 + 8 * graphs.cooccurring)


def checkpoint_bytes(items: int, dim: int) -> int:
    """Return the bytes of E and its moments in a checkpoint, whatever the number of ranks."""
    return 3 * table_bytes(items, dim)


FULL = 48_200_000  # items of the 2023 edition
DIM = 64
RANKS_OF_HOST = 8
LAYOUTS = {  # ranks, ZeRO stage
    "1 rank, ZeRO 0": (1, 0),
    "8 ranks of a host, ZeRO 0": (8, 0),
    "8 ranks of a host, ZeRO 1": (8, 1),
    "64 ranks on 8 hosts, ZeRO 1": (64, 1),
}
OPTIONS = {  # entries of O an item
    "all of O": 514,
    "graph.max_cooccurrences = 100": 100,
}


def full_catalogue() -> str:
    """Return the GB of FULL items by rank and host, as the Markdown of docs/scale.md."""
    header = [
        "layout",
        "O",
        "E a rank",
        "Adam a rank",
        "Ahat a host",
        "O a host",
        "host",
        "checkpoint",
    ]
    rows = []
    for layout, (workers, stage) in LAYOUTS.items():
        for option, cooccurring in OPTIONS.items():
            graphs = Graphs(MODALITIES, NEIGHBORS, cooccurring)
            table, adam = table_bytes(FULL, DIM), adam_bytes(FULL, DIM, workers, stage)
            shared = neighbor_bytes(FULL, graphs), cooccurrence_bytes(FULL, graphs)
            host = min(workers, RANKS_OF_HOST) * (table + adam) + sum(shared)
            sizes = (table, adam, *shared, host, checkpoint_bytes(FULL, DIM))
            rows.append([layout, option, *(f"{size / 1e9:.1f}" for size in sizes)])
    return markdown_table(header, rows)
