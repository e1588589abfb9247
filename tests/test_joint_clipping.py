"""One gradient norm over the rows of items and all other weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.distributed.joint_clipping import clip_together


class Rows:
    """Item rows of one rank, with the gradient (0, 4)."""

    def __init__(self) -> None:
        self.gradient = torch.tensor([0.0, 4.0])

    def squared_norm(self) -> Tensor:
        return self.gradient.double().square().sum()[None]

    def scale_gradients(self, factor: Tensor) -> None:
        self.gradient.mul_(factor)


@pytest.mark.parametrize(("most", "factor"), [(2.5, 0.5), (5.0, 1.0), (100.0, 1.0)])
def test_all_gradients_get_a_joint_norm_of_at_most_so_much(most: float, factor: float) -> None:
    weight = nn.Parameter(torch.zeros(2))
    rows: Any = Rows()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    clip_together(optimizer, rows, most, is_partitioned=False)
    weight.grad = torch.tensor([3.0, 0.0])  # a norm of 5 with that of the rows
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-3.0 * factor, 0.0]))
    torch.testing.assert_close(rows.gradient, torch.tensor([0.0, 4.0 * factor]))
