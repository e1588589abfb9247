"""Dropout with masks drawn from 16 random bits per element.

On a CPU this takes a tenth of the time of one random float per element. A GPU has kernels for it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 1 << 16


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Set elements to zero with probability `p` and scale the others so that the mean stays.

    On a CPU `p` is rounded to a multiple of 1/65536.
    """
    if x.is_cuda:
        return F.dropout(x, p, training)
    return x * dropout_mask(tuple(x.shape), p, x) if training and p else x


def dropout_mask(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """Draw a mask of 0 and 1 / (1 - p), with the dtype and device of `like`."""
    if like.is_cuda:
        return F.dropout(like.new_ones(shape), p)
    num_zero = min(round(p * LEVELS), LEVELS - 1)
    numel = torch.Size(shape).numel()
    words = torch.empty(-(-numel // 4), dtype=torch.int64, device=like.device)
    words.random_(-(2**63), None)
    bits = words.view(torch.int16)[:numel].view(shape)
    return (bits >= num_zero - LEVELS // 2).to(like.dtype).mul_(LEVELS / (LEVELS - num_zero))
