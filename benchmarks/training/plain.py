"""MDSRec's loss in plain form, the reference for the model's speed and losses.

Every prefix is a row padded to the longest sequence, every projection is applied to every center,
all logits are in memory, and there is no dropout.

Shapes: P prefixes, T longest sequence, K centers, D width, X items, C channels, M modalities.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.batch import Batch
from training.layers.transformer import Block, Encoder, split_heads
from training.models.mdsrec.centers import plain_center_mixture
from training.models.mdsrec.interest_block import InterestBlock
from training.models.mdsrec.items import module_key
from training.models.mdsrec.model import MDSRec


class Prefixes(NamedTuple):
    """The prefixes of a batch that count in the loss, in its order."""

    items: Tensor  # int64 [P, T], indices into the batch's items, padded at the end
    lengths: Tensor  # int64 [P]
    targets: Tensor  # int64 [P]
    noise: Tensor  # [P, M, K]


def prefixes_of(batch: Batch, longest: int) -> Prefixes:
    """Return the prefixes of a batch as padded rows; `longest` is the length of a row."""
    T = batch.item_index.shape[1]
    row, end = batch.prefixes // T, batch.prefixes % T
    index_PT = F.pad(batch.item_index, (0, longest - T))[row]
    inside = torch.arange(longest) <= end[:, None]
    return Prefixes(index_PT * inside, end + 1, batch.targets, batch.noise[row, end])


def losses(model: MDSRec, batch: Batch, longest: int) -> Tensor:
    """Return the loss of each channel, summed over the prefixes -> [C] (Eq. 3-24)."""
    prefixes, entries = prefixes_of(batch, longest), model.with_sparse_rows(batch).entries
    assert entries is not None
    embedding_XD, tokens, starts = model.items.sequence_inputs(
        model.item_embedding, batch.items, entries, {}, {}
    )
    graphs = [modality.graph for modality in model.items.modalities.values()]
    P, T = prefixes.items.shape
    last = torch.arange(P), prefixes.lengths - 1
    positions = model.position_embedding[:T]
    valid_PT = torch.arange(T) < prefixes.lengths[:, None]
    x_PTD = tokens[0][prefixes.items] + positions
    *_, (id_PTD, _) = states_of(model.encoders["id"], x_PTD, None, valid_PT)
    fused = id_PTD[last]
    total = []
    for index, name in enumerate(model.modalities):
        start = starts[index]
        c_PKD = None if start is None else start.expand(P, -1, -1)
        x_PTD = tokens[1 + index][prefixes.items] + positions
        *_, (x_PTD, c_PKD) = states_of(model.encoders[module_key(name)], x_PTD, c_PKD, valid_PT)
        e_PD = x_PTD[last]
        fused = fused + model.channel_weights[1 + index] * e_PD  # Eq. 17
        if c_PKD is not None:
            e_PD = e_PD + plain_center_mixture(
                c_PKD, e_PD, prefixes.noise[:, index], model.config.tau
            )
        graph = graphs[index]
        assert graph is not None
        vectors_XD = graph.between(0, len(embedding_XD)).times(embedding_XD)
        total.append(_loss(model, e_PD, vectors_XD, prefixes.targets))
    return torch.stack([_loss(model, fused, embedding_XD, prefixes.targets), *total])


def _loss(model: MDSRec, e_PD: Tensor, items_XD: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of one channel (Eq. 24)."""
    if model.config.scores_cosines:
        e_PD = F.normalize(e_PD, dim=1) / model.config.temperature
        items_XD = F.normalize(items_XD, dim=1)
    return F.cross_entropy(e_PD @ items_XD.T, targets, reduction="sum")


def states_of(
    encoder: nn.Module, x_PTD: Tensor, c_PKD: Tensor | None, valid_PT: Tensor
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the tokens and centers before the first layer and after each layer."""
    assert isinstance(encoder, Encoder)
    x_PTD = encoder.norm(x_PTD)
    yield x_PTD, c_PKD
    for block in encoder.blocks:
        assert isinstance(block, Block)
        updated = None if c_PKD is None else _updated_centers(block, c_PKD, x_PTD, valid_PT)
        queries, keys, values = (
            split_heads(project(x_PTD), block.num_heads)
            for project in (block.query, block.key, block.value)
        )
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x_PTD = block.attention_norm(x_PTD + block.output(_join_heads(attended)))
        hidden = block.outer(F.gelu(block.inner(x_PTD)))
        x_PTD = block.feedforward_norm(x_PTD + hidden)
        c_PKD = updated
        yield x_PTD, c_PKD


def _updated_centers(block: Block, c_PKD: Tensor, x_PTD: Tensor, valid_PT: Tensor) -> Tensor:
    """Return the centers after a layer (Eq. 12-15)."""
    assert isinstance(block, InterestBlock)
    queries = split_heads(block.query(c_PKD), block.num_heads)
    keys = split_heads(block.key(x_PTD), block.num_heads)
    values = split_heads(block.value(x_PTD), block.num_heads)
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(keys.shape[-1])
    scores = scores.masked_fill(~valid_PT[:, None, None], -math.inf)
    weights = torch.softmax(scores, dim=-1)
    g_PKD = block.output(_join_heads(weights @ values))
    return F.gelu(block.center.second(block.center.first(g_PKD)))


def _join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(-2)
