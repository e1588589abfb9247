"""A linear layer that gives a row the same bits in every batch."""

from torch import Tensor, nn
from torch.nn import functional as F

ROWS = 16  # a matrix product of fewer rows may sum in another order


class Linear(nn.Linear):
    """nn.Linear, with at least ROWS rows: fewer are padded."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        missing = ROWS - len(rows)
        if missing <= 0:
            return super().forward(x)
        return super().forward(F.pad(rows, (0, 0, 0, missing)))[: len(rows)].view(*x.shape[:-1], -1)
