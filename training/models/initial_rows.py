"""Initial rows of parameters with a row for each item.

Each block of items has random numbers of its own, so a rank draws only the blocks that it owns.
"""

import numpy as np
import torch
from torch import Tensor

from mdsrec.arrays import Ints

BLOCK = 1 << 16  # items; the first block continues the generator of the other parameters

Stream = tuple[int, int]  # seed of the run, and number of the parameter


@torch.no_grad()
def draw_rows(
    rows: Tensor,
    items: Ints,
    num_items: int,
    std: float,
    generator: torch.Generator,
    stream: Stream,
) -> None:
    """Fill the rows [n, ...] of these items, of all, from normal(0, std)."""
    order = np.argsort(items, kind="stable")
    ascending = items[order]
    for start in range(0, num_items, BLOCK):
        stop = min(start + BLOCK, num_items)
        first, last = np.searchsorted(ascending, [start, stop])
        if start and first == last:
            continue
        source = _generator(*stream, start // BLOCK) if start else generator
        block = rows.new_empty(stop - start, *rows.shape[1:])
        block.normal_(0.0, std, generator=source)
        rows[torch.from_numpy(order[first:last])] = block[ascending[first:last] - start]


def _generator(seed: int, parameter: int, block: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, parameter, block]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
