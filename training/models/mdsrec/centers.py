"""Interest centres of every prefix, and what they add to it (Eq. 12-16, 18-19).

b users, T positions, P prefixes a user, K centres, D width, N heads, d = D / N.

A centre looks at the tokens of one prefix alone, so every prefix has centres of its own: P K
vectors a user beside T tokens. Nothing nonlinear stands between a token's value and the sigma of
Eq. 15, so U, W1 and W2 may be applied to the tokens instead of the centres, and Q likewise to the
keys. Where tokens and heads are many, projecting the centres is cheaper; a layer says which.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.device import working_set
from training.layers.in_blocks import in_blocks

KEPT_BYTES = 64 << 20  # of the centres of all layers that the backward pass need not make again


class Projection(NamedTuple):
    """What is applied to every centre."""

    query: Tensor  # [D, D], Q over sqrt(d)
    query_bias: Tensor  # [D]
    output: Tensor  # [D, D], U W1 W2
    output_bias: Tensor  # [D]


class Layer(NamedTuple):
    """What the tokens of a layer offer to the centres.

    The first layer has no keys: all prefixes share c^0, and `shift` holds its scores [b, K, N T].
    """

    projection: Projection | None  # none: absorbed into the tokens
    keys: Tensor | None  # [b, N, T, d]; absorbed [b, N T, D], keys times Q; over sqrt(d)
    shift: Tensor | None  # absorbed [b, 1, N T], keys times the bias of Q over sqrt(d)
    values: Tensor  # [b, N, T, d]; absorbed [b, N T + 1, D], values times U W1 W2, then its biases

    def scores(self, centers: Tensor | None) -> Tensor:
        """Of centres [b, c, D] -> [b, c, N T]; none in the first layer."""
        if centers is None or self.keys is None:
            assert centers is None and self.shift is not None
            return self.shift
        if self.projection is None:
            assert self.shift is not None
            return times_transposed(centers, self.keys) + self.shift
        queries = centers @ self.projection.query + self.projection.query_bias
        by_head = split_heads(queries, self.keys.shape[1])
        return times_transposed(by_head, self.keys).transpose(1, 2).flatten(2)

    def mixed(self, weights: Tensor) -> Tensor:
        """Eq. 13-15 before sigma, for attention weights [b, c, N T] -> [b, c, D]."""
        if self.projection is None:
            return F.pad(weights, (0, 1), value=1.0) @ self.values
        g = (split_heads(weights, self.values.shape[1]) @ self.values).transpose(1, 2).flatten(2)
        return g @ self.projection.output + self.projection.output_bias


class Prefixes(NamedTuple):
    """What is asked of the centres."""

    e: Tensor  # [b, P, D]
    visible: Tensor  # bool [b, P, T], the tokens of each prefix
    noise: Tensor | None  # [b, P, K], logit(delta), delta ~ U(0, 1); none equals delta = 1/2
    kept: list[Tensor]  # of each layer [b, P K, N T], times the attention weights (dropout)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[b, n, N d] -> [b, N, n, d]"""
    return x.view(*x.shape[:-1], num_heads, -1).transpose(1, 2)


def absorbs(num_heads: int, length: int, dim: int) -> bool:
    """Whether absorbed projections cost less: N T D a centre, against D^2 + T D."""
    return num_heads * length <= dim + length


def center_mixture(num_centers: int, layers: list[Layer], prefixes: Prefixes, tau: float) -> Tensor:
    """gamma c^L, what the nearest centres add to each prefix -> [b, P, D] (Eq. 12-19)."""
    assert layers[0].shift is not None
    widest = max(prefixes.e.shape[-1], layers[0].shift.shape[-1])  # D, or N T attention weights
    bytes_a_user = prefixes.e[0, :, 0].numel() * num_centers * widest * prefixes.e.element_size()
    size = max(1, working_set(prefixes.e) // bytes_a_user)
    keep = bytes_a_user * len(prefixes.e) * len(layers) <= KEPT_BYTES
    projections = [layer.projection for layer in layers]
    split = prefixes, [layer._replace(projection=None) for layer in layers]
    with torch.autocast(prefixes.e.device.type, enabled=False):
        return in_blocks(partial(_mixture, num_centers, tau), size, keep, projections, split)


def _mixture(
    K: int,
    tau: float,
    projections: list[Projection | None],
    split: tuple[Prefixes, list[Layer]],
) -> Tensor:
    (e, visible, noise, kept), tokens = split
    (b, P, D), T = e.shape, visible.shape[-1]
    centers: Tensor | None = None
    for index, (projection, offered) in enumerate(zip(projections, tokens, strict=True)):
        layer = offered._replace(projection=projection)
        scores = layer.scores(centers)
        scores = scores.view(b, scores.shape[1] // K, K, -1, T).masked_fill(
            ~visible[:, :, None, None], -torch.inf
        )
        weights = torch.softmax(scores, dim=-1).flatten(3).flatten(1, 2)  # Eq. 12
        if kept:
            weights = weights * kept[index]
        centers = F.gelu(layer.mixed(weights))  # Eq. 15
    assert centers is not None
    of_prefix = None if noise is None else noise.reshape(b * P, K)
    return nearest(centers.reshape(b * P, K, D), e.reshape(b * P, D), of_prefix, tau).view(b, P, D)


def plain_nearest(c_PKD: Tensor, e_PD: Tensor, noise_PK: Tensor | None, tau: float) -> Tensor:
    """gamma c of Eq. 18-19 as it is written -> [P, D]."""
    logits = torch.einsum("pd,pkd->pk", e_PD, c_PKD)
    logits = logits if noise_PK is None else logits + noise_PK
    return torch.einsum("pk,pkd->pd", torch.softmax(logits / tau, dim=-1), c_PKD)


def nearest(c_PKD: Tensor, e_PD: Tensor, noise_PK: Tensor | None, tau: float) -> Tensor:
    """`plain_nearest` in a third of its time on a CPU."""
    result: Tensor = _Nearest.apply(c_PKD, e_PD, noise_PK, tau)  # type: ignore[no-untyped-call]
    return result


class _Nearest(torch.autograd.Function):
    """Sums of products in place of matrix products with a single row or column."""

    @staticmethod
    def forward(ctx: Any, c_PKD: Tensor, e_PD: Tensor, noise_PK: Tensor | None, tau: float) -> Any:
        logits = (c_PKD * e_PD[:, None]).sum(dim=-1)
        logits = logits if noise_PK is None else logits + noise_PK
        gamma_PK = torch.softmax(logits / tau, dim=-1)
        ctx.tau = tau
        ctx.save_for_backward(c_PKD, e_PD, gamma_PK)
        return (gamma_PK[:, None] @ c_PKD)[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        c_PKD, e_PD, gamma_PK = ctx.saved_tensors
        of_sum = gradients[0][:, None]
        of_gamma = (c_PKD * of_sum).sum(dim=-1)
        of_logits = gamma_PK * (of_gamma - (gamma_PK * of_gamma).sum(dim=-1, keepdim=True))
        of_logits = of_logits / ctx.tau
        of_c = (gamma_PK[..., None] * of_sum).addcmul_(of_logits[..., None], e_PD[:, None])
        return of_c, (of_logits[:, None] @ c_PKD)[:, 0], None, None


def times_transposed(left: Tensor, right: Tensor) -> Tensor:
    """left @ right^T; its backward pass, unlike that of `@`, multiplies whole rows alone."""
    result: Tensor = _TimesTransposed.apply(left, right)  # type: ignore[no-untyped-call]
    return result


class _TimesTransposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Any:
        ctx.save_for_backward(left, right)
        return left @ right.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        left, right = ctx.saved_tensors
        return gradients[0] @ right, gradients[0].mT @ left
