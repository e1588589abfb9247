"""Dropout from 16 random bits an element: on a CPU a tenth of the time of a float each."""

import torch
from torch import Tensor

LEVELS = 1 << 16


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero with probability `p`, rounded to 1/65536; the others grow so that the mean stays."""
    return x * dropout_mask(tuple(x.shape), p, x) if training and p else x


def dropout_mask(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """What dropout multiplies by, 0 or 1 / (1 - p), of `like`'s type and device."""
    num_zero = min(round(p * LEVELS), LEVELS - 1)
    numel = torch.Size(shape).numel()
    words = torch.empty(-(-numel // 4), dtype=torch.int64, device=like.device)
    words.random_(-(2**63), None)
    bits = words.view(torch.int16)[:numel].view(shape)
    return (bits >= num_zero - LEVELS // 2).to(like.dtype).mul_(LEVELS / (LEVELS - num_zero))
