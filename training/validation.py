"""Validation after an epoch: the ranks share the users, and each target is ranked once.

B targets, T positions, C channels, D width.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, distributed

from mdsrec import metrics
from mdsrec.config import Experiment
from training.data.sequences import History, SequenceReader, Target
from training.device import product_precision, to_device
from training.distributed import engine as ds
from training.distributed.engine_protocol import Engine
from training.inference import NO_HISTORY, padded
from training.layers.queries import Queries
from training.layers.scoring import count_channels
from training.models.base import Model
from training.models.shard_ranking import ShardRanking
from training.sharding.item_shards import ItemShards
from training.sharding.owners import rank_and_world_size

VALIDATION_METRICS = ("ndcg@10", "recall@10")
GROUPS = 8

Encode = Callable[[Tensor, Tensor], Tensor]
"""Returns the vectors [B, C, D] of padded histories [B, T] and their lengths [B]."""


@torch.no_grad()
def validate(
    engine: Engine[Model],
    experiment: Experiment,
    reader: SequenceReader,
    device: torch.device,
) -> dict[str, float]:
    """Return the mean metrics of the whole score over all validation targets. Collective."""
    rank, world_size = rank_and_world_size(engine.module.owners)
    sizes = experiment.eval.sized_for(device.type == "cuda")
    size = sizes.users_together
    sums = torch.zeros(1 + len(VALIDATION_METRICS), dtype=torch.float64)
    engine.eval()
    with ds.gather_parameters(engine), product_precision("fp32"):
        count = _counter(engine, sizes.items_together, device)
        for start in range(0, reader.num_users, world_size * size):
            first = start + rank * size
            targets = reader.targets(first, first + size, "valid")
            better, ties = (tensor.cpu().numpy() for tensor in count(targets))
            found = metrics.ndcg(better, ties, 10).sum(), metrics.recall(better, ties, 10).sum()
            sums += torch.tensor([len(targets), *found])
    on_device = sums.to(device)
    distributed.all_reduce(on_device)
    num_targets, *values = on_device.tolist()
    named = zip(VALIDATION_METRICS, values, strict=True)
    return {name: value / max(num_targets, 1) for name, value in named}


def _counter(
    engine: Engine[Model], block: int, device: torch.device
) -> Callable[[list[Target]], tuple[Tensor, Tensor]]:
    """Return a function that counts, for targets, the items that score higher or tie [B] each.

    Every rank calls it equally often.
    """
    model = engine.module
    if isinstance(engine.item_parameters, ItemShards):
        ranking = ShardRanking(model, engine.item_parameters, block)
        encode, items_CXD = ranking.encode, ranking.items.vectors
    else:
        ranking, item_vectors = None, model.item_vectors()
        items_CXD = item_vectors.vectors

        def encode(items_BT: Tensor, lengths_B: Tensor) -> Tensor:
            items_BT, lengths_B = (to_device(part, device) for part in (items_BT, lengths_B))
            return model.user_vectors(items_BT, lengths_B, item_vectors)

    def count(targets: list[Target]) -> tuple[Tensor, Tensor]:
        vectors_BCD = encode_in_groups([t.history for t in targets], model, encode, items_CXD)
        items_B = torch.tensor([t.target for t in targets], dtype=torch.int64, device=device)
        if ranking is not None:
            return ranking.count(vectors_BCD, items_B)
        if not targets:
            return items_B, items_B
        queries = Queries(vectors_BCD, items_CXD)
        better, ties = count_channels(queries, model.channel_weights[None], items_B, block)
        return better[:, 0], ties[:, 0]

    return count


def encode_in_groups(
    histories: list[History], model: Model, encode: Encode, like_CXD: Tensor
) -> Tensor:
    """Return one vector per history and channel [B, C, D].

    Histories of similar length are encoded together. The number of groups is fixed, because where
    ranks hold parts of the model, every rank must call `encode` equally often. So vectors can
    differ in the last digit between batches, unlike those of `inference.encode_histories`.
    """
    num_channels, _, dim = like_CXD.shape
    vectors = like_CXD.new_empty(len(histories), num_channels, dim)
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    for group in np.array_split(np.argsort(lengths, kind="stable"), GROUPS):
        members = [histories[user] for user in group] or [NO_HISTORY]
        encoded = encode(*padded(members, model.config.max_length))
        index = to_device(torch.from_numpy(group), vectors.device)
        vectors.index_copy_(0, index, encoded[: len(group)])
    return vectors
