"""Scores of few items per row, as the memory of transitions gives them.

B rows (users or targets), X items, n of them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class SparseScores:
    """Scores of distinct pairs (row, item), sorted by row, then item. All other pairs score 0."""

    rows: Tensor  # int64 [pairs]
    items: Tensor  # int64 [pairs]
    scores: Tensor  # float32 [pairs]
    num_items: int

    def to(self, device: torch.device) -> "SparseScores":
        rows, items = self.rows.to(device), self.items.to(device)
        return SparseScores(rows, items, self.scores.to(device), self.num_items)

    def between(self, first: int, last: int) -> "SparseScores":
        """Return the scores of items first <= item < last, which count from the first."""
        inside = (self.items >= first) & (self.items < last)
        items = self.items[inside] - first
        return SparseScores(self.rows[inside], items, self.scores[inside], last - first)

    def at(self, items_Bn: Tensor) -> Tensor:
        """Return the scores of each row for items of its own -> [B, n]."""
        keys = self.rows * self.num_items + self.items
        rows_B1 = torch.arange(len(items_Bn), device=items_Bn.device)[:, None]
        wanted = rows_B1 * self.num_items + items_Bn
        place = torch.searchsorted(keys, wanted)
        keys, scores = F.pad(keys, (0, 1), value=-1), F.pad(self.scores, (0, 1))
        return torch.where(keys[place] == wanted, scores[place], 0.0)

    def blocks(self, first_items: list[int], width: int) -> list["SparseBlock"]:
        """Return the scores of the items [first, first + width) for each of `first_items`."""
        items, order = torch.sort(self.items, stable=True)
        starts = torch.tensor(first_items, device=items.device)
        edges = torch.searchsorted(items, torch.stack([starts, starts + width]))
        rows, scores = self.rows[order], self.scores[order]
        return [
            SparseBlock(rows[a:b], items[a:b] - first, scores[a:b])
            for first, (a, b) in zip(first_items, edges.T.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class SparseBlock:
    """Scores of a range of items; `columns` count from its first item."""

    rows: Tensor
    columns: Tensor
    scores: Tensor

    def write_to(self, out_Bn: Tensor) -> None:
        """Overwrite `out_Bn` with the scores, and with 0 where there is none."""
        out_Bn.zero_()
        out_Bn[self.rows, self.columns] = self.scores
