"""The training stage of a model without weights: only its validation."""

import time
from typing import Any

import numpy as np
import torch

from mdsrec import files, metrics
from mdsrec.config import Experiment
from mdsrec.run_paths import RunPaths
from training.data.sequences import SequenceReader
from training.device import origin
from training.inference import load_without_weights
from training.layers.scoring import count_channels


def validate_untrained(experiment: Experiment) -> dict[str, Any]:
    """Rank the validation targets; write and return a history of one epoch without steps."""
    started = time.perf_counter()
    trained, reader = load_without_weights(experiment), SequenceReader(experiment)
    counts = [np.empty((2, 0), dtype=np.int64)]
    for first in range(0, reader.num_users, experiment.eval.users_together):
        targets = reader.targets(first, first + experiment.eval.users_together, "valid")
        if targets:
            in_sums, ties_in_sums = count_channels(
                trained.queries([target.history for target in targets]),
                torch.ones(1, 1),
                torch.tensor([target.target for target in targets]),
                experiment.eval.items_together,
            )
            counts.append(torch.stack([in_sums[:, 0], ties_in_sums[:, 0]]).numpy())
    better, ties = np.concatenate(counts, axis=1)
    epoch = {
        "epoch": 0,
        "ndcg@10": float(metrics.ndcg(better, ties, 10).mean()),
        "recall@10": float(metrics.recall(better, ties, 10).mean()),
        "seconds": time.perf_counter() - started,
    }
    history = {
        "epochs": [epoch],
        "best_epoch": 0,
        "num_parameters": 0,
        "num_workers": 1,
        "user_batch": experiment.eval.users_together,
        "item_block": experiment.eval.items_together,
        **origin(torch.device("cpu")),
        "finished": True,
    }
    files.write_json(RunPaths.of(experiment).history, history)
    return history
