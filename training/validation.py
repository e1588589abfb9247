"""Validation between epochs: every validation target ranked once, by one of the ranks."""

from typing import Any

import torch
from torch import distributed

from mdsrec import metrics
from mdsrec.config import Experiment
from training.data.sequences import SequenceReader
from training.distributed import engine as ds
from training.layers.scoring import count_channels
from training.models.base import Model
from training.users import user_vectors

VALIDATION_METRICS = ("ndcg@10", "recall@10")


@torch.no_grad()
def validate(
    engine: Any, experiment: Experiment, reader: SequenceReader, device: torch.device
) -> dict[str, float]:
    """Metrics of the whole score over every validation target."""
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    size = experiment.eval.user_batch
    sums = torch.zeros(1 + len(VALIDATION_METRICS), dtype=torch.float64)
    engine.eval()
    with ds.gathered(engine):
        model: Model = engine.module
        side = model.item_side()
        for start in range(0, reader.num_users, world_size * size):
            first = start + rank * size
            targets = reader.targets(first, first + size, "valid")
            queries = user_vectors(model, [t.history for t in targets], side)
            if targets:
                wanted = torch.tensor([t.target for t in targets], device=device)
                better, ties = count_channels(
                    queries, side.vectors, model.channel_weights, wanted, experiment.eval.item_block
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
