"""RecBole's SASRec on the files of `split.py`, run by an interpreter that has RecBole.

The input is one JSON object: the `method` of Peer to call, RecBole's `settings`, `threads`, and the
arguments of the method. The output is its result, in JSON too.
"""

import copy
import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

WARMUP_BATCHES = 2


class Peer:
    """RecBole's data, model and trainer, built as in its own quick start."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.model.sequential_recommender import SASRec
        from recbole.trainer import Trainer
        from recbole.utils import init_seed

        config = Config(model="SASRec", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        parts = data_preparation(config, create_dataset(config))
        self.train, self.valid, self.test = parts
        init_seed(config["seed"], config["reproducibility"])
        self.model = SASRec(config, self.train.dataset)
        self.trainer = Trainer(config, self.model)

    def fit(self) -> dict[str, Any]:
        """Train with early stopping; return the metrics of the epoch with the best validation."""
        scores: list[float] = []
        best: dict[str, Any] = {}

        def keep(_epoch: int, score: float) -> None:
            if score > max(scores, default=-1.0):
                best.update(copy.deepcopy(self.model.state_dict()))
            scores.append(score)

        self.trainer.fit(self.train, self.valid, verbose=False, saved=False, callback_fn=keep)
        self.model.load_state_dict(best)
        return {
            "epochs": len(scores),
            "valid": self.metrics(self.valid),
            "test": self.metrics(self.test),
        }

    def metrics(self, part: Any) -> dict[str, float]:
        return dict(self.trainer.evaluate(part, load_best_model=False))

    def speed(self, batches: int) -> dict[str, float]:
        """Return the rows per second of training on so many batches, and of a validation."""
        self._train(WARMUP_BATCHES)
        started = time.perf_counter()
        rows = self._train(batches)
        trained = time.perf_counter()
        self.metrics(self.valid)
        ranked = time.perf_counter()
        return {
            "train": rows / (trained - started),
            "rank": len(self.valid.dataset) / (ranked - trained),
        }

    def _train(self, batches: int) -> int:
        """Run RecBole's own epoch on so many batches; return the number of rows."""
        rows = 0

        def count_rows() -> Iterator[Any]:
            nonlocal rows
            for batch in islice(self.train, batches):
                rows += len(batch)
                yield batch

        self.trainer._train_epoch(count_rows(), 0)
        return rows


def main() -> None:
    import torch

    request = json.load(sys.stdin)
    torch.set_num_threads(request.pop("threads"))
    peer = Peer(request.pop("settings"))
    result = getattr(peer, request.pop("method"))(**request)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
