"""Another reading of the interest centers, as a model:
`model.name=benchmarks.readings:BlockCenters`

A center goes through the whole Transformer block of the tokens, with its residual connections,
norms and feed-forward network, and starts from c^0 with the tokens' LayerNorm. gamma is the softmax
of inner products over sqrt(D), without noise. With `model.own_clusters = true` a center attends
only to the events of its cluster, and a history has the centers of its own clusters.

`python -m benchmarks.readings CONFIG ...` prints, for the test histories of a trained run, how far
apart its centers are and how many of them gamma mixes.

B users, T positions, P prefixes of a user, n of all users, R centers of all prefixes, K, D width.
"""

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mdsrec.command import experiment_of, experiment_parser, run_command
from mdsrec.config import Experiment, MDSRecConfig
from mdsrec.config.section import Flag
from mdsrec.errors import InputError
from training.data.item_tables import ItemTables
from training.data.sequences import SequenceReader
from training.inference import load_trained, padded
from training.layers.dropout import dropout
from training.layers.transformer import Block, Encoder, split_heads
from training.models.mdsrec.items import module_key
from training.models.mdsrec.model import MDSRec, Prefixes

PROG = "benchmarks.readings"
NAME = "benchmarks.readings:BlockCenters"
USERS = 256  # histories at a time


class BlockCentersConfig(MDSRecConfig):
    name: str  # type: ignore[assignment]
    own_clusters: Flag = False
    """A center attends only to the events of its cluster."""


class Centers(NamedTuple):
    """The centers of all prefixes, after the last layer."""

    prefix: Tensor  # int64 [R], whose center it is
    states: Tensor  # [R, D]
    gamma: Tensor  # [R], with sum 1 over the centers of a prefix


class BlockCenters(MDSRec):
    config: BlockCentersConfig

    def __init__(self, experiment: Experiment, tables: ItemTables) -> None:
        super().__init__(experiment, tables)
        for m, name in enumerate(self.modalities):
            self.register_buffer(f"clusters_{m}", _clusters(tables, name), persistent=False)

    def encode(
        self,
        m: int,
        x_BTD: Tensor,
        c_KD: Tensor | None,
        prefixes: Prefixes,
        noise_BPK: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        e_BPD, centers = self.centers_of(m, x_BTD, c_KD, prefixes)
        counted = prefixes.counted
        mixed_nD = e_BPD.new_zeros(len(counted), self.config.dim)
        mixed_nD = mixed_nD.index_add(0, centers.prefix, centers.gamma[:, None] * centers.states)
        flat = torch.zeros_like(e_BPD).flatten(0, 1).index_copy(0, counted, mixed_nD)
        return e_BPD, flat.view_as(e_BPD)

    def centers_of(
        self, m: int, x_BTD: Tensor, c_KD: Tensor | None, prefixes: Prefixes
    ) -> tuple[Tensor, Centers]:
        """Return e^m of all prefixes, and the centers of those that count."""
        items, index_BT, ends_BP, counted = prefixes
        encoder = self.encoders[module_key(self.modalities[m])]
        assert isinstance(encoder, Encoder) and c_KD is not None
        inputs, e_BPD = self._layers(encoder, x_BTD, ends_BP)
        P, T = e_BPD.shape[1], index_BT.shape[1]
        user_n = counted // P
        end_n = counted % P if ends_BP is None else ends_BP.flatten()[counted]
        visible_nT = torch.arange(T, device=end_n.device) <= end_n[:, None]
        cluster_of_item = self.get_buffer(f"clusters_{m}")
        cluster_nT = cluster_of_item[items.to(index_BT.device)[index_BT]][user_n]
        prefix, cluster, seen_RT = self._centers_and_events(cluster_nT, visible_nT, len(c_KD))
        states = encoder.norm(c_KD)[cluster]
        for x, block in zip(inputs, encoder.blocks, strict=True):
            assert isinstance(block, Block)
            states = self._attended(block, x, states, seen_RT, user_n[prefix])
        logits = (e_BPD.flatten(0, 1)[counted][prefix] * states).sum(-1)
        gamma = _softmax_by_prefix(logits / math.sqrt(self.config.dim), prefix, len(user_n))
        return e_BPD, Centers(prefix, states, gamma)

    def _layers(
        self, encoder: Encoder, x_BTD: Tensor, ends_BP: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """Return the tokens before each layer, and those at `ends_BP` after the last one."""
        x_BTD = dropout(encoder.norm(x_BTD), self.config.dropout, self.training)
        inputs = []
        for number, block in enumerate(encoder.blocks, 1):
            assert isinstance(block, Block)
            inputs.append(x_BTD)
            is_last = number == len(encoder.blocks)
            x_BTD = block.tokens_keys_values(x_BTD, None, ends_BP if is_last else None)[0]
        return inputs, x_BTD

    def _centers_and_events(
        self, cluster_nT: Tensor, visible_nT: Tensor, K: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return of each center its prefix [R], its cluster [R] and the events it sees [R, T]."""
        if not self.config.own_clusters:
            n, device = len(visible_nT), visible_nT.device
            prefix = torch.arange(n, device=device).repeat_interleave(K)
            return prefix, torch.arange(K, device=device).repeat(n), visible_nT[prefix]
        same_nTT = cluster_nT[:, :, None] == cluster_nT[:, None]
        later = same_nTT.new_ones(same_nTT.shape[1:]).triu(1)
        repeated_nT = (same_nTT & later & visible_nT[:, None]).any(-1)
        prefix, event = (visible_nT & ~repeated_nT).nonzero(as_tuple=True)
        return prefix, cluster_nT[prefix, event], same_nTT[prefix, event] & visible_nT[prefix]

    def _attended(
        self, block: Block, x_BTD: Tensor, states: Tensor, seen_RT: Tensor, user: Tensor
    ) -> Tensor:
        """Return the centers after a whole block -> [R, D]."""
        N, p = block.num_heads, self.config.dropout
        keys, values = split_heads(block.key(x_BTD), N), split_heads(block.value(x_BTD), N)
        attended = F.scaled_dot_product_attention(
            block.query(states).view(len(states), N, 1, -1),
            keys[user],
            values[user],
            attn_mask=seen_RT[:, None, None],
            dropout_p=p if self.training else 0.0,
        )
        added = dropout(block.output(attended.flatten(1)), p, self.training)
        after = block.attention_norm(states + added)
        hidden = block.outer(F.gelu(block.inner(after)))
        result: Tensor = block.feedforward_norm(after + dropout(hidden, p, self.training))
        return result


def _clusters(tables: ItemTables, modality: str) -> Tensor:
    """Return the cluster of each item [X], 0 without the modality."""
    members = tables.modalities[modality].membership
    assert members is not None
    clusters = torch.zeros(tables.num_items, dtype=torch.int64)
    of_entries = np.repeat(np.arange(members.num_rows), np.diff(members.starts))
    clusters[torch.from_numpy(members.columns).long()] = torch.from_numpy(of_entries)
    return clusters


def _softmax_by_prefix(logits: Tensor, prefix: Tensor, num_prefixes: int) -> Tensor:
    largest = logits.new_full((num_prefixes,), -torch.inf)
    largest = largest.scatter_reduce(0, prefix, logits.detach(), "amax")
    weights = (logits - largest[prefix]).exp()
    return weights / weights.new_zeros(num_prefixes).index_add(0, prefix, weights)[prefix]


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    parser = experiment_parser(PROG, __doc__ or "")
    experiment = experiment_of(parser.parse_intermixed_args(argv))
    if experiment.model.name != NAME:
        raise InputError(f'model.name = "{experiment.model.name}": expected "{NAME}"')
    # Not `isinstance`: run as a program, this module is another one than the model's.
    model = cast(BlockCenters, load_trained(experiment).model)
    reader = SequenceReader(experiment)
    items = model.item_vectors()
    measured = []
    for first in range(0, reader.num_users, USERS):
        targets = reader.targets(first, first + USERS, "test")
        histories, lengths = padded([t.history for t in targets], model.config.max_length)
        index = torch.arange(histories.numel()).view_as(histories)
        ends, counted = lengths[:, None] - 1, torch.arange(len(targets))
        prefixes = Prefixes(histories.flatten(), index, ends, counted)
        for m in range(len(model.modalities)):
            x_BTD = items.tokens(histories.flatten())[1 + m][index]
            x_BTD = x_BTD + model.position_embedding[: histories.shape[1]]
            _, centers = model.centers_of(m, x_BTD, items.centers[m], prefixes)
            measured.append(_spread_and_mixed(centers, len(targets)))
    spread, mixed, count = torch.cat(measured, dim=1).mean(dim=1).tolist()
    print(
        f"spread after the last layer {spread:.2f}, gamma mixes {mixed:.1f} of {count:.1f} centers"
    )


def _spread_and_mixed(centers: Centers, num_prefixes: int) -> Tensor:
    """Return of each prefix the spread, the effective and the real number of centers [3, n]."""
    prefix, states, gamma = centers

    def summed(rows: Tensor) -> Tensor:
        return rows.new_zeros(num_prefixes, *rows.shape[1:]).index_add(0, prefix, rows)

    count = summed(torch.ones_like(gamma))
    mean_nD = summed(states) / count[:, None]
    distances = summed((states - mean_nD[prefix]).square().sum(-1)) / count
    spread = distances.sqrt() / mean_nD.norm(dim=1)
    return torch.stack([spread, summed(torch.special.entr(gamma)).exp(), count])


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
