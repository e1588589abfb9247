"""The GPU memory of a catalogue: the formula of docs/cluster.md, and its table.

`python -m benchmarks.sizes` prints the table. All numbers are float32. A working set that
does not grow with the number of items comes on top.
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


if __name__ == "__main__":
    print(table())
