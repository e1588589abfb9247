"""The softmax of short rows equals torch's, and does not depend on the other rows."""

import pytest
import torch

from training.layers.row_softmax import LANES, row_softmax

LENGTHS = (1, 3, LANES - 1, LANES, LANES + 4)


def rows_of(length: int) -> torch.Tensor:
    rows = 10 * torch.randn(37, 5, length, generator=torch.Generator().manual_seed(length))
    return rows.masked_fill_(torch.arange(length) > torch.arange(5)[:, None], -torch.inf)


@pytest.mark.parametrize("length", LENGTHS)
def test_weights_and_gradients_are_those_of_torch(length: int) -> None:
    given, other = rows_of(length).requires_grad_(), rows_of(length).requires_grad_()
    found, expected = row_softmax(given), torch.softmax(other, dim=-1)
    torch.testing.assert_close(found, expected)
    factors = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * factors).sum().backward()
    (expected * factors).sum().backward()
    torch.testing.assert_close(given.grad, other.grad)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_row_has_the_same_bits_beside_any_others(length: int) -> None:
    rows = rows_of(length)
    whole = row_softmax(rows)
    for count in (1, 2, 7):
        assert torch.equal(row_softmax(rows[3 : 3 + count]), whole[3 : 3 + count])
    assert torch.equal(row_softmax(rows[3, 2:3]), whole[3, 2:3])
