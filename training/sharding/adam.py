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
BLOCK_BYTES = 16 << 20  # of weights that are stepped at once: a call costs 100 microseconds besides
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # the defaults of torch.optim.Adam, which the engine uses

State = tuple[Tensor, Tensor, Tensor]  # weights [n, ...] and Adam's moments of them


def zero_block(weights: Tensor) -> Tensor:
    """Return the zeros [b, ...] that `adam_of_all` needs for weights [n, ...]."""
    size = max(BLOCK_BYTES, working_set(weights))
    return torch.zeros_like(weights[: _rows_of(size, weights)])


def adam_of_all(
    state: State, ids: Tensor, gradient: Tensor, zeros: Tensor, rate: float, steps: int
) -> None:
    """Take Adam's step number `steps` for all rows. Those not in `ids` have the gradient 0.

    `ids` [R] ascend. The rows are stepped in blocks of as many as `zeros` has. It holds a block's
    gradient meanwhile, and zeros again at the end. A GPU steps all rows without one, and then those
    in `ids` from what they were, because the edges of blocks in `ids` would have to be waited for.
    """
    size = max(len(zeros), 1)
    starts = range(0, len(state[0]), size)
    if ids.is_cuda:
        stepped = [tensor.index_select(0, ids) for tensor in state]
        _adam(stepped, gradient, rate, steps)
        for first in starts:
            part = [tensor[first : first + size] for tensor in state]
            _adam(part, zeros[: len(part[0])], rate, steps)
        for tensor, rows in zip(state, stepped, strict=True):
            tensor.index_copy_(0, ids, rows)
        return
    edges = torch.searchsorted(ids, ids.new_tensor([*starts, len(state[0])])).tolist()
    for first, start, stop in zip(starts, edges, edges[1:], strict=False):
        rows = ids[start:stop] - first
        zeros.index_copy_(0, rows, gradient[start:stop])
        part = [tensor[first : first + size] for tensor in state]
        _adam(part, zeros[: len(part[0])], rate, steps)
        zeros.index_fill_(0, rows, 0.0)


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
    taken = torch.full((), float(steps - 1), device=gradient.device)
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
    """Return how many rows make a block that stays in the cache."""
    return _rows_of(working_set(rows), rows)


def _rows_of(size: int, rows: Tensor) -> int:
    """Return how many rows have `size` bytes, in whole LANES.

    So no vector of the processor is cut, which would round another way.
    """
    fit = size // (rows.element_size() * math.prod(rows.shape[1:]))
    return max(LANES, fit // LANES * LANES)
