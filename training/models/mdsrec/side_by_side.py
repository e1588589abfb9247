"""The encoders of all channels of MDSRec as one, for the training on a GPU.

The channels have encoders of one shape (Eq. 7-9), and so have the centers of the modalities (Eq.
12-19). Stacked, C products become one: the host launches a third of the kernels, and each of them
keeps more of the GPU busy. Sums are those of `MDSRec.queries`, in another order.

B users, T positions, P prefixes, C = 1 + |M| channels, M of them modalities, n items, D width, N
heads, d = D / N, K centers.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from training.layers.dropout import dropout, dropout_mask
from training.layers.transformer import NORM_EPS, Block, Encoder, attention, pad_heads
from training.models.mdsrec.centers import CenterAttention, PrefixStates, prefix_interests
from training.models.mdsrec.stacked_weights import Affine, Layer, stacked_weights


class Inputs(NamedTuple):
    """A batch of sequences in every channel."""

    tokens: list[Tensor]  # [n, D] of each channel
    centers: list[Tensor | None]  # c^0 [K, D] of each modality
    positions: Tensor  # [T, D], P
    item_index: Tensor  # [B, T], the inputs as indexes into the n items
    hidden: Tensor | None  # bool [B, T, 1], positions whose item is hidden
    prefixes: Tensor  # [P], in [B T]
    noise: Tensor  # [B, T, M, K]


def stacked_queries(
    encoders: Sequence[Encoder], inputs: Inputs, weights_C: Tensor, tau: float
) -> Tensor:
    """Return e_s and etilde^m of the prefixes -> [C, P, D] (Eq. 7-9 and 12-19)."""
    (B, T), C, D = inputs.item_index.shape, len(encoders), inputs.positions.shape[1]
    p, training = encoders[0].dropout, encoders[0].training
    norm, layers = stacked_weights(encoders)
    x_CBTD = _normalized(_embedded(inputs), norm)
    x_CBTD = dropout(x_CBTD, p, training)
    given = [c_KD for c_KD in inputs.centers if c_KD is not None]
    centers = torch.stack(given) if given else None
    attentions, start = [], centers
    num_heads = cast(Block, encoders[0].blocks[0]).num_heads
    for layer in layers:
        x_CBTD, keys, values = _after_block(x_CBTD, layer, num_heads, p, training)
        if centers is not None:
            attentions.append(_center_attention(start, keys, values, layer))
            start = None
    e_id, e_MBTD = torch.split(x_CBTD, [1, C - 1])
    weighted = weights_C[1:, None, None, None] * e_MBTD
    fused = e_id + weighted.sum(dim=0, keepdim=True)  # Eq. 17
    if centers is not None:
        states = _prefix_states(e_MBTD, inputs, centers.shape[1], encoders[0], num_heads)
        interests = prefix_interests(centers.shape[1], attentions, states, tau)
        e_MBTD = e_MBTD + interests.view_as(e_MBTD)  # Eq. 18
    queries = torch.cat([fused, e_MBTD]).view(C, B * T, D)
    return queries.index_select(1, inputs.prefixes)


def _embedded(inputs: Inputs) -> Tensor:
    """Return token + P of every position [C, B, T, D]; a hidden token is zero."""
    x_BTE = F.embedding(inputs.item_index, torch.cat(inputs.tokens, dim=1))
    x_CBTD = x_BTE.view(*x_BTE.shape[:2], len(inputs.tokens), -1).permute(2, 0, 1, 3)
    if inputs.hidden is not None:
        x_CBTD = x_CBTD.masked_fill(inputs.hidden, 0.0)
    return x_CBTD + inputs.positions


def _after_block(
    x_CBTD: Tensor, layer: Layer, num_heads: int, p: float, training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokens after a block (Eq. 8).

    Then the keys and values of the modalities [M, B, N, T, d].
    """
    C, B, T, D = x_CBTD.shape
    qkv = _linear(x_CBTD, layer.to_qkv).view(C * B, T, 3, num_heads, -1)
    queries, keys, values = pad_heads(qkv).permute(2, 0, 3, 1, 4).unbind()
    attended = attention(queries, keys, values, None, p if training else 0.0, D // num_heads)
    attended = _linear(attended.transpose(1, 2).reshape(C, B, T, D), layer.to_output)
    after = _normalized(x_CBTD + dropout(attended, p, training), layer.attention_norm)
    hidden = _linear(F.gelu(_linear(after, layer.inner)), layer.outer)
    after = _normalized(after + dropout(hidden, p, training), layer.feedforward_norm)
    _, keys, values = qkv.view(C, B, T, 3, num_heads, -1)[1:].permute(3, 0, 1, 4, 2, 5).unbind()
    return after, keys, values


def _center_attention(
    centers_MKD: Tensor | None, keys: Tensor, values: Tensor, layer: Layer
) -> CenterAttention:
    """Return what `InterestBlock` does for all modalities, whose users follow each other.

    The projections are absorbed.
    """
    assert layer.query and layer.output and layer.first and layer.second
    M, B, N, _, d = keys.shape
    D = N * d
    with torch.autocast(keys.device.type, enabled=False):
        keys, values = keys.float() / math.sqrt(d), values.float()
        (query, query_bias), (output, output_bias) = layer.query, layer.output
        to_outputs = output.mT @ layer.first[0].mT @ layer.second[0].mT
        bias = _linear(_linear(output_bias, layer.first), layer.second)
        outputs = torch.einsum("mbntd,mndc->mbntc", values, to_outputs.view(M, N, d, D))
        outputs = torch.cat([outputs.flatten(2, 3), bias[:, None].expand(-1, B, -1, -1)], dim=2)
        outputs = outputs.flatten(0, 1)
        if centers_MKD is not None:
            queries = _linear(centers_MKD, (query, query_bias)).view(M, -1, N, d)
            scores = torch.einsum("mknd,mbntd->mbknt", queries, keys)
            return CenterAttention(None, None, scores.flatten(3).flatten(0, 1), outputs)
        by_head = query.reshape(M, N, d, D)
        query_keys = torch.einsum("mbntd,mndc->mbntc", keys, by_head)
        shift = torch.einsum("mbntd,mnd->mbnt", keys, query_bias.reshape(M, N, d))
        shift = shift.flatten(2).flatten(0, 1)[:, None]
        return CenterAttention(None, query_keys.flatten(2, 3).flatten(0, 1), shift, outputs)


def _prefix_states(
    e_MBTD: Tensor, inputs: Inputs, K: int, encoder: Encoder, num_heads: int
) -> PrefixStates:
    """Return the prefixes of all modalities, whose users follow each other."""
    (M, B, T, D), device = e_MBTD.shape, e_MBTD.device
    visible_TT = torch.ones(T, T, dtype=torch.bool, device=device).tril()
    noise = inputs.noise.permute(2, 0, 1, 3).reshape(M * B, T, K)
    shape, p = (M * B, T * K, num_heads * T), encoder.dropout
    draws = encoder.training and p
    masks = [dropout_mask(shape, p, e_MBTD) for _ in encoder.blocks] if draws else []
    e = e_MBTD.reshape(M * B, T, D).float()
    return PrefixStates(e, visible_TT.expand(M * B, T, T), noise, masks)


def _linear(x: Tensor, weights: Affine) -> Tensor:
    """Map the vectors of each channel [C, ..., in] -> [C, ..., out]."""
    weight, bias = weights
    flat = torch.baddbmm(bias, x.flatten(1, -2), weight.mT)
    return flat.view(*x.shape[:-1], weight.shape[1])


def _normalized(x: Tensor, norm: Affine) -> Tensor:
    """Normalize the vectors of each channel [C, ..., D]."""
    scale, shift = (part.reshape(len(part), *[1] * (x.dim() - 2), -1) for part in norm)
    normalized: Tensor = _Normalized.apply(x, scale, shift)  # type: ignore[no-untyped-call]
    return normalized


class _Normalized(torch.autograd.Function):
    """LayerNorm with a scale and a shift of each channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Any:
        width = x.shape[-1:]
        normed, mean, rstd = torch.native_layer_norm(x.float(), width, None, None, NORM_EPS)
        ctx.save_for_backward(x, mean, rstd, normed, scale)
        return torch.addcmul(shift, normed, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, mean, rstd, normed, scale = ctx.saved_tensors
        gradient, inner = gradients[0], tuple(range(1, x.dim() - 1))
        of_x, *_ = torch.ops.aten.native_layer_norm_backward(
            gradient * scale, x.float(), x.shape[-1:], mean, rstd, None, None, [True, False, False]
        )
        of_scale = (gradient * normed).sum(dim=inner, keepdim=True)
        return of_x.to(x.dtype), of_scale, gradient.sum(dim=inner, keepdim=True)
