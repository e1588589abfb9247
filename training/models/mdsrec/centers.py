"""Interest centers of every prefix, and what they add to its representation (Eq. 12-16, 18-19).

b users, T positions, P prefixes of a user, K centers, D width, N heads, d = D / N, c centers of a
user: K of c^0, which all prefixes share, and P K after the first layer.

A center attends only to the tokens of its own prefix, so every prefix has its own centers: a user
has P K centers but only T tokens. All steps between the value of a token and the sigma of Eq. 15
are linear. So U W1 W2 can be applied to the values instead of the centers, and Q to the keys: the
projections are then absorbed. With many tokens and heads it is cheaper to project the centers.
`absorption_is_cheaper` decides.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.device import working_set
from training.layers.in_blocks import in_blocks
from training.layers.row_softmax import row_softmax
from training.layers.transformer import split_heads

SAVED_BYTES = 64 << 20  # of all centers: up to this size they are kept for the backward pass
GPU_SAVED_BYTES = 2 << 30  # the same on a GPU, which then computes them in one block


class CenterProjection(NamedTuple):
    """Weights that are applied to every center."""

    query: Tensor  # [D, D], Q
    query_bias: Tensor  # [D]
    output: Tensor  # [D, D], U W1 W2
    output_bias: Tensor  # [D]


class CenterAttention(NamedTuple):
    """Attention of the centers to the tokens of one layer (Eq. 12-15)."""

    # None means absorbed: then `keys` are already multiplied by Q, and `values` by U W1 W2.
    projection: CenterProjection | None
    # Divided by sqrt(d): [b, N, T, d]; absorbed: [b, N T, D]. None in the first layer.
    keys: Tensor | None
    # Absorbed: keys times the bias of Q, the same for all centers, [b, 1, N T].
    # In the first layer: the scores of c^0, [b, K, N T].
    shift: Tensor | None
    # [b, N, T, d]; absorbed: [b, N T + 1, D], where the last row holds the biases.
    values: Tensor

    def scores(self, centers: Tensor | None) -> Tensor:
        """Return the scores of centers [b, c, D] before the softmax of Eq. 12 -> [b, c, N T].

        None means c^0, in the first layer.
        """
        if centers is None or self.keys is None:
            assert centers is None and self.shift is not None
            return self.shift
        if self.projection is None:
            assert self.shift is not None
            return times_transposed(centers, self.keys) + self.shift
        queries = centers @ self.projection.query + self.projection.query_bias
        by_head = split_heads(queries, self.keys.shape[1])
        return times_transposed(by_head, self.keys).transpose(1, 2).flatten(2)

    def outputs(self, weights: Tensor) -> Tensor:
        """Return Eq. 13-15 before sigma for attention weights [b, c, N T] -> [b, c, D]."""
        if self.projection is None:
            return F.pad(weights, (0, 1), value=1.0) @ self.values
        g = (split_heads(weights, self.values.shape[1]) @ self.values).transpose(1, 2).flatten(2)
        return g @ self.projection.output + self.projection.output_bias


class PrefixStates(NamedTuple):
    """Prefixes whose centers are computed."""

    e: Tensor  # [b, P, D], e^m
    visible: Tensor  # bool [b, P, T], the tokens of each prefix
    noise: Tensor | None  # [b, P, K], logit(delta), delta ~ U(0, 1); None means delta = 1/2
    dropout_masks: list[Tensor]  # of the attention weights [b, P K, N T] in each layer; [] for none


def absorption_is_cheaper(num_heads: int, length: int, dim: int) -> bool:
    """Return whether absorbed projections cost less: N T D per center instead of D^2 + T D."""
    return num_heads * length <= dim + length


def prefix_interests(
    num_centers: int, layers: list[CenterAttention], prefixes: PrefixStates, tau: float
) -> Tensor:
    """Return gamma c^L, which Eq. 18 adds to each prefix -> [b, P, D] (Eq. 12-19)."""
    assert layers[0].shift is not None
    widest = max(prefixes.e.shape[-1], layers[0].shift.shape[-1])  # D, or N T attention weights
    bytes_per_user = prefixes.e[0, :, 0].numel() * num_centers * widest * prefixes.e.element_size()
    size, num_users = max(1, working_set(prefixes.e) // bytes_per_user), len(prefixes.e)
    while size > 1 and num_users > 1 and num_users % size == 1:
        size += 1  # a user alone in a block would be rounded differently
    saved_bytes = GPU_SAVED_BYTES if prefixes.e.is_cuda else SAVED_BYTES
    keep = bytes_per_user * num_users * len(layers) <= saved_bytes
    size = num_users if keep and prefixes.e.is_cuda else size
    projections = [layer.projection for layer in layers]
    split = prefixes, [layer._replace(projection=None) for layer in layers]
    with torch.autocast(prefixes.e.device.type, enabled=False):
        return in_blocks(
            partial(_interests_of_users, num_centers, tau), size, keep, projections, split
        )


def _interests_of_users(
    K: int,
    tau: float,
    projections: list[CenterProjection | None],
    split: tuple[PrefixStates, list[CenterAttention]],
) -> Tensor:
    """Compute `prefix_interests` for a block of users."""
    (e, visible, noise, dropout_masks), layers = split
    (b, P, D), T = e.shape, visible.shape[-1]
    hidden, centers = ~visible[:, :, None, None], None
    for index, (projection, tokens) in enumerate(zip(projections, layers, strict=True)):
        layer = tokens._replace(projection=projection)
        scores = layer.scores(centers)
        scores = scores.view(b, scores.shape[1] // K, K, -1, T).masked_fill(hidden, -torch.inf)
        weights = row_softmax(scores).flatten(3).flatten(1, 2)  # Eq. 12
        if dropout_masks:
            weights = weights * dropout_masks[index]
        centers = F.gelu(layer.outputs(weights))  # Eq. 15
    assert centers is not None
    noise_PK = None if noise is None else noise.reshape(b * P, K)
    c_PKD, e_PD = centers.reshape(b * P, K, D), e.reshape(b * P, D)
    return center_mixture(c_PKD, e_PD, noise_PK, tau).view(b, P, D)


def plain_center_mixture(
    c_PKD: Tensor, e_PD: Tensor, noise_PK: Tensor | None, tau: float
) -> Tensor:
    """Return gamma c, the weighted sum of each prefix's centers -> [P, D] (Eq. 18-19).

    gamma = softmax((c . e + noise) / tau).
    """
    logits = torch.einsum("pd,pkd->pk", e_PD, c_PKD)
    logits = logits if noise_PK is None else logits + noise_PK
    return torch.einsum("pk,pkd->pd", torch.softmax(logits / tau, dim=-1), c_PKD)


def center_mixture(c_PKD: Tensor, e_PD: Tensor, noise_PK: Tensor | None, tau: float) -> Tensor:
    """Compute `plain_center_mixture` in a third of its time on a CPU."""
    result: Tensor = _CenterMixture.apply(c_PKD, e_PD, noise_PK, tau)  # type: ignore[no-untyped-call]
    return result


class _CenterMixture(torch.autograd.Function):
    """Sums of products instead of matrix products with a single row or column, which are slow."""

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
    """Return left @ right^T. Its backward pass, unlike that of `@`, multiplies only whole rows."""
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
