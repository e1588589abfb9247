"""SASRec of RecTools, run by an interpreter that has it: `python -m benchmarks.peers.with_rectools`

Its defaults: pre-norm as in the authors' code, ReLU, an inner width of D, learned positions counted
from the last event, Xavier-normal weights, and Adam with betas (.9, .98).
"""

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.sasrec import SASRecDataPreparator

from benchmarks.peers.pace import Pace, Timer
from benchmarks.peers.process import answer
from benchmarks.peers.request import TOP, Request
from benchmarks.peers.sequences import HeldOut, Items, Sequences, metrics_of

RANK_BATCH = 256  # RecTools' default


class EveryItem(SASRecDataPreparator):
    """Its own preparation, and an embedding for items without a training event as well."""

    num_items = 0
    train_dataset: Dataset

    def process_dataset_train(self, dataset: Dataset) -> None:
        super().process_dataset_train(dataset)
        train = self.train_dataset
        self.item_id_map = train.item_id_map.add_ids(np.arange(self.num_items))
        self.train_dataset = Dataset(train.user_id_map, self.item_id_map, train.interactions)
        self._init_extra_token_ids()


class Stopwatch(Callback):
    """Ends the training when the reading is over."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace

    def on_train_batch_end(
        self, trainer: Trainer, _module: Any, _loss: Any, batch: Any, _n: int
    ) -> None:
        trainer.should_stop = self.pace.add(int((batch["y"] != 0).sum()))


class RecTools:
    """The methods of a request."""

    def __init__(self, request: Request) -> None:
        seed_everything(request.seed)
        self.request, self.sequences = request, Sequences(request.split)
        EveryItem.num_items = self.sequences.num_items
        users, histories = zip(*self.sequences.training(), strict=True)
        self.training = dataset_of(users, histories)
        negatives = request.negatives
        loss = {"loss": "sampled_softmax", "n_negatives": negatives} if negatives else {}
        self.model = SASRecModel(
            n_blocks=request.num_layers,
            n_heads=request.num_heads,
            n_factors=request.dim,
            dropout_rate=request.dropout,
            session_max_len=request.max_length,
            batch_size=request.batch_users,
            lr=request.lr,
            epochs=request.max_epochs,
            recommend_batch_size=RANK_BATCH,
            recommend_torch_device="cpu",
            data_preparator_type=EveryItem,
            **loss,
        )

    def train(self) -> dict[str, Any]:
        watch = Stopwatch(Pace(self.request.seconds))
        self.model._trainer = self._trainer([watch], max_epochs=-1)
        self.model.fit(self.training)
        assert self.model.fit_trainer is not None  # with copies of the callbacks
        (watch,) = (c for c in self.model.fit_trainer.callbacks if isinstance(c, Stopwatch))
        return watch.pace.rates

    def rank(self) -> dict[str, Any]:
        """Return the users per second of `recommend`, with weights that are not trained."""
        self.model._build_model_from_dataset(self.training)
        self.model.is_fitted = True
        events = self.sequences.held_out("valid")[: self.request.rank_users]
        self._lists(events[:RANK_BATCH])
        timer = Timer()
        self._lists(events)
        return timer.rates(len(events))

    def fit(self) -> dict[str, Any]:
        """Train with early stopping; return the metrics of the epoch with the best validation."""
        self.model._trainer = self._trainer([], max_epochs=1)
        best, best_epoch, weights = -1.0, 0, {}
        for epoch in range(1, self.request.max_epochs + 1):
            self.model.fit_partial(self.training, min_epochs=1, max_epochs=1)
            score = self._metrics("valid")["ndcg@10"]
            if score > best:
                best, best_epoch = score, epoch
                weights = copy.deepcopy(self.model.torch_model.state_dict())
            if epoch - best_epoch >= self.request.patience:
                break
        self.model.torch_model.load_state_dict(weights)
        parts = {part: self._metrics(part) for part in ("valid", "test")}
        return {"epochs": epoch, "best": best_epoch, **parts}

    def _trainer(self, callbacks: list[Callback], max_epochs: int) -> Trainer:
        """Return the trainer that RecTools makes by default, with other callbacks."""
        return Trainer(
            max_epochs=max_epochs,
            callbacks=callbacks,
            accelerator="cpu",
            devices=1,
            precision=self.request.lightning_precision,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )

    def _metrics(self, part: str) -> dict[str, float]:
        events = self.sequences.held_out(part)
        lists = self._lists(events)
        rows = np.full((len(events), TOP), -1)
        row_of = {event.user: row for row, event in enumerate(events)}
        rows[lists[Columns.User].map(row_of), lists[Columns.Rank] - 1] = lists[Columns.Item]
        return metrics_of(rows, [event.target for event in events])

    def _lists(self, events: Sequence[HeldOut]) -> pd.DataFrame:
        users = [event.user for event in events]
        dataset = dataset_of(users, [event.history for event in events])
        return self.model.recommend(users, dataset, k=TOP, filter_viewed=False)


def dataset_of(users: Sequence[int], histories: Sequence[Items]) -> Dataset:
    """Return the events as RecTools' data set, in their order."""
    lengths = [len(history) for history in histories]
    places = np.concatenate([np.arange(length) for length in lengths])
    frame = pd.DataFrame(
        {
            Columns.User: np.repeat(users, lengths),
            Columns.Item: np.concatenate(histories),
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(places, unit="s"),
        }
    )
    return Dataset.construct(frame)


if __name__ == "__main__":
    answer(RecTools, Request.read(Path(sys.argv[1])), ["rectools", "torch", "pytorch-lightning"])
