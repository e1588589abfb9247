"""Initial rows of parameters with a row for each item.

Each block of items has random numbers of its own, so a rank draws only the blocks that it owns.
"""

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 16  # items; the first block continues the generator of the other parameters

Stream = tuple[int, int]  # seed of the run, and number of the parameter


@torch.no_grad()
def draw_rows(
    rows: Tensor, first: int, num_items: int, std: float, generator: torch.Generator, stream: Stream
) -> None:
    """Fill the rows [n, ...] of items first <= item < first + n of all from normal(0, std)."""
    last = first + len(rows)
    for start in range(0, num_items, BLOCK):
        stop = min(start + BLOCK, num_items)
        own_start, own_stop = max(start, first), min(stop, last)
        if start and own_start >= own_stop:
            continue
        source = _generator(*stream, start // BLOCK) if start else generator
        block = rows.new_empty(stop - start, *rows.shape[1:])
        block.normal_(0.0, std, generator=source)
        if own_start < own_stop:
            rows[own_start - first : own_stop - first] = block[own_start - start : own_stop - start]


def _generator(seed: int, parameter: int, block: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, parameter, block]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
