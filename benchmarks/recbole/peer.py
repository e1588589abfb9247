"""RecBole's SASRec on the files of `recbole_split.py`, under an interpreter that has RecBole.

It reads one JSON object: `what` to do, RecBole's `settings`, `threads`, and what the doing takes;
it prints its answer the same way.
"""

import copy
import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

WARM = 2


class Peer:
    """As RecBole's own quick start puts data, model and trainer together."""

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
        """Metrics of the epoch that validated best."""
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
        """Rows a second of so many training batches, and of the ranking of the validation rows."""
        self._train(WARM)
        began = time.perf_counter()
        rows = self._train(batches)
        trained = time.perf_counter()
        self.metrics(self.valid)
        ranked = time.perf_counter()
        return {
            "train": rows / (trained - began),
            "rank": len(self.valid.dataset) / (ranked - trained),
        }

    def _train(self, batches: int) -> int:
        """Through RecBole's own training of an epoch -> rows trained."""
        rows = 0

        def counted() -> Iterator[Any]:
            nonlocal rows
            for batch in islice(self.train, batches):
                rows += len(batch)
                yield batch

        self.trainer._train_epoch(counted(), 0)
        return rows


def main() -> None:
    import torch

    request = json.load(sys.stdin)
    torch.set_num_threads(request.pop("threads"))
    peer = Peer(request.pop("settings"))
    answer = getattr(peer, request.pop("what"))(**request)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
