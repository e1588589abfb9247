"""Arithmetic of the softmax in tiles, in place where that saves memory.

P prefixes, n items, D width.
"""

import torch
from torch import Tensor

EPS = 1e-12  # least length to divide a vector by, as in torch's normalize


def dtype_of_scores(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of scores whose factors have `dtype`: float32 or more precise."""
    return torch.promote_types(dtype, torch.float32)


def log_sum_exp(scores: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the log-sum-exp of the rows of scores [P, n], and m, the highest score of each [P].

    On a CPU the scores become exp(score - m), which the backward pass needs too, and nothing is
    written to new memory. On a GPU they stay, and m is None.
    """
    if scores.is_cuda:
        return torch.logsumexp(scores, dim=1), None
    maxima = scores.amax(dim=1).clamp_min_(torch.finfo(scores.dtype).min)  # all may be -inf
    sums = scores.sub_(maxima[:, None]).exp_().sum(dim=1)
    return sums.log_().add_(maxima), maxima


def probabilities(scores: Tensor, maxima: Tensor | None, log_sums: Tensor) -> Tensor:
    """Replace scores [P, n], or their exponentials below `maxima`, by probabilities."""
    if maxima is None:
        return scores.sub_(log_sums[:, None]).exp_()
    return scores.mul_((maxima - log_sums).exp_()[:, None])


def normalize_rows(rows_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows scaled to length 1, zero rows unchanged, and their lengths [N, 1]."""
    rows_ND = rows_ND.to(torch.promote_types(rows_ND.dtype, torch.float32))
    lengths = rows_ND.norm(dim=1, keepdim=True).clamp_min(EPS)
    return rows_ND / lengths, lengths


def normalize_rows_backward(gradient_ND: Tensor, unit_ND: Tensor, lengths: Tensor) -> None:
    """Turn the gradient of the scaled rows `unit_ND` into that of the rows."""
    along = (gradient_ND * unit_ND).sum(dim=1, keepdim=True)
    gradient_ND.addcmul_(unit_ND, along, value=-1).div_(lengths)


def write_product(out: Tensor, left: Tensor, right: Tensor, adds: bool) -> None:
    """Set `out` to the product of the matrices, or add the product to it."""
    if left.dtype == out.dtype:
        torch.addmm(out, left, right, beta=int(adds), out=out)
    elif adds:
        out += left @ right
    else:
        out.copy_(left @ right)
