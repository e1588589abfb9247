"""Rows by id: their sums, and their exchange between ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed
from torch.nn import functional as F


def sum_rows(ids: Sequence[Tensor], rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the distinct ids, ascending, and the sum of the rows of each, in the order given.

    The ids of one part are distinct and ascend.
    """
    if len(ids) == 1:
        return ids[0], rows[0]
    distinct, index = torch.unique(torch.cat(list(ids)), return_inverse=True)
    sums = rows[0].new_zeros(len(distinct), *rows[0].shape[1:])
    places = index.split([len(part) for part in ids])
    for place, part in zip(places, rows, strict=True):  # one by one: in this order on a GPU too
        sums.index_add_(0, place, part)
    return distinct, sums


def gather_rows(ids: Tensor, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the ids and rows of every rank, in the order of ranks. Collective."""
    size = ids.new_tensor([len(ids)])
    sizes = [torch.empty_like(size) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, size)
    counts = torch.cat(sizes).tolist()
    gathered = []
    for part in (ids, rows):
        padded = F.pad(part, (0, 0) * (part.dim() - 1) + (0, max(counts) - len(part)))
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded.contiguous())
        gathered.append([part[:count] for part, count in zip(parts, counts, strict=True)])
    return list(zip(*gathered, strict=True))
