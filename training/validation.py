"""Validation after an epoch: the ranks share the users, and each target is ranked once."""

import torch
from torch import distributed

from mdsrec import metrics
from mdsrec.config import Experiment
from training.data.sequences import SequenceReader
from training.distributed import engine as ds
from training.distributed.engine_protocol import Engine
from training.inference import user_vectors
from training.layers.queries import Queries
from training.layers.scoring import count_channels
from training.models.base import Model

VALIDATION_METRICS = ("ndcg@10", "recall@10")


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
            vectors = user_vectors(model, [t.history for t in targets], item_vectors)
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
