"""Validation after an epoch: the ranks share the users, and each target is ranked once."""

import numpy as np
import torch
from torch import Tensor, distributed

from mdsrec import metrics
from mdsrec.config import Experiment
from training.data.sequences import History, SequenceReader
from training.distributed import engine as ds
from training.distributed.engine_protocol import Engine
from training.inference import NO_HISTORY, padded
from training.layers.queries import Queries
from training.layers.scoring import count_channels
from training.models.base import ItemVectors, Model

VALIDATION_METRICS = ("ndcg@10", "recall@10")
GROUPS = 8


@torch.no_grad()
def validate(
    engine: Engine[Model],
    experiment: Experiment,
    reader: SequenceReader,
    device: torch.device,
) -> dict[str, float]:
    """Return the mean metrics of the whole score over all validation targets. Collective."""
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    size = experiment.eval.user_batch
    sums = torch.zeros(1 + len(VALIDATION_METRICS), dtype=torch.float64)
    engine.eval()
    with ds.gather_parameters(engine):
        model = engine.module
        item_vectors = model.item_vectors()
        for start in range(0, reader.num_users, world_size * size):
            first = start + rank * size
            targets = reader.targets(first, first + size, "valid")
            vectors = _user_vectors(model, [t.history for t in targets], item_vectors)
            if targets:
                better, ties = count_channels(
                    Queries(vectors, item_vectors.vectors),
                    model.channel_weights[None],
                    torch.tensor([t.target for t in targets], device=device),
                    experiment.eval.item_block,
                )
                counts = better[:, 0].cpu().numpy(), ties[:, 0].cpu().numpy()
                sums += torch.tensor(
                    [
                        len(targets),
                        metrics.ndcg(*counts, 10).sum(),
                        metrics.recall(*counts, 10).sum(),
                    ]
                )
    on_device = sums.to(device)
    distributed.all_reduce(on_device)
    count, *values = on_device.tolist()
    return {
        name: value / max(count, 1) for name, value in zip(VALIDATION_METRICS, values, strict=True)
    }


def _user_vectors(model: Model, histories: list[History], item_vectors: ItemVectors) -> Tensor:
    """Return one vector per history and channel [B, C, D].

    Histories of similar length are encoded together, in a fixed number of groups: under ZeRO-3
    every rank must call the model equally often.
    """
    num_channels, _, dim = item_vectors.vectors.shape
    vectors = item_vectors.vectors.new_empty(len(histories), num_channels, dim)
    device = vectors.device
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    for group in np.array_split(np.argsort(lengths, kind="stable"), GROUPS):
        members = [histories[user] for user in group] or [NO_HISTORY]
        items_BT, lengths_B = padded(members, model.config.max_length)
        encoded = model.user_vectors(items_BT.to(device), lengths_B.to(device), item_vectors)
        vectors[torch.from_numpy(group)] = encoded[: len(group)]
    return vectors
