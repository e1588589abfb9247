"""Adam for tensors whose gradient is zero but for a few rows.

n rows, R of them with a gradient.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

from training.device import working_set

LANES = 64
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # the defaults of torch.optim.Adam, which the engine uses

State = tuple[Tensor, Tensor, Tensor]  # weights [n, ...] and Adam's moments of them


def adam_of_all(state: State, ids: Tensor, gradient: Tensor, rate: float, steps: int) -> None:
    """Take Adam's step number `steps` for all rows. Those not in `ids` have the gradient 0.

    `ids` [R] ascend. The rows are stepped in blocks, so the zeros are never as large as the table.
    """
    size = rows_in_cache(state[0])
    starts = range(0, len(state[0]), size)
    edges = torch.searchsorted(ids, ids.new_tensor([*starts, len(state[0])])).tolist()
    block = torch.zeros_like(state[0][:size])
    for first, start, stop in zip(starts, edges, edges[1:], strict=False):
        rows = ids[start:stop] - first
        block.index_copy_(0, rows, gradient[start:stop])
        part = [tensor[first : first + size] for tensor in state]
        _adam(part, block[: len(part[0])], rate, steps)
        block.index_fill_(0, rows, 0.0)


def adam_of_whole(state: State, gradient: Tensor, rate: float, steps: int) -> None:
    """Take Adam's step number `steps` for all rows, with a gradient of each."""
    _adam(state, gradient, rate, steps)


def adam_of_rows(state: State, ids: Tensor, gradient: Tensor, rate: float, steps: int) -> Tensor:
    """Take Adam's step number `steps` for the rows `ids` only, and return `ids` (lazy Adam)."""
    part = [tensor.index_select(0, ids) for tensor in state]
    _adam(part, gradient, rate, steps)
    for tensor, rows in zip(state, part, strict=True):
        tensor.index_copy_(0, ids, rows)
    return ids


def _adam(state: Sequence[Tensor], gradient: Tensor, rate: float, steps: int) -> None:
    if not gradient.numel():
        return
    taken = torch.tensor(float(steps - 1), device=gradient.device)
    weights, first_moment, second_moment = state
    adam(
        [weights],
        [gradient],
        [first_moment],
        [second_moment],
        [],
        [taken],
        fused=True,
        amsgrad=False,
        beta1=BETA1,
        beta2=BETA2,
        lr=rate,
        weight_decay=0.0,
        eps=EPS,
        maximize=False,
    )


def rows_in_cache(rows: Tensor) -> int:
    """Return how many rows make a block that stays in the cache while Adam steps it.

    It is a multiple of LANES, so that no vector of the processor is cut, which would round another
    way.
    """
    rows_in_cache = working_set(rows) // (rows.element_size() * math.prod(rows.shape[1:]))
    return max(LANES, rows_in_cache // LANES * LANES)
