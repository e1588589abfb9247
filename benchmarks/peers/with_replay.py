"""SasRec of RePlay, run by an interpreter that has it: `python -m benchmarks.peers.with_replay`

Its defaults: pre-norm as in the authors' code, ReLU, an inner width of D, embeddings times sqrt(D),
learned positions counted from the last event, Xavier-normal weights, and Adam with betas (.9, .98).
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.data.nn.parquet import ParquetModule
from replay.nn.agg import SumAggregator
from replay.nn.embedding import SequenceEmbedding
from replay.nn.lightning import LightningModule
from replay.nn.lightning.callback import ComputeMetricsCallback, PandasTopItemsCallback
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.loss import CE, CESampled, LogInCE
from replay.nn.mask import DefaultAttentionMask
from replay.nn.sequential import (
    LengthBucketedQueryEncoder,
    PositionAwareAggregator,
    SasRec,
    SasRecBody,
    SasRecTransformerLayer,
)
from replay.nn.transform import UniformNegativeSamplingTransform
from replay.nn.transform.template import make_default_sasrec_transforms

from benchmarks.peers.pace import Pace, Timer
from benchmarks.peers.process import answer
from benchmarks.peers.request import CUTOFFS, TOP, Request
from benchmarks.peers.sequences import HeldOut, Items, Sequences

USER, ITEM, TARGET = "user_id", "item_id", "ground_truth"
RANK_BATCH = 256
BUCKET = 32  # sequences of similar length that the encoder takes together


class Stopwatch(lightning.Callback):
    """Ends the training when the reading is over."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace

    def on_train_batch_end(
        self, trainer: Any, _module: Any, _loss: Any, batch: Any, _n: int
    ) -> None:
        trainer.should_stop = self.pace.add(int(batch["target_padding_mask"].sum()))


class RePlay:
    """The methods of a request."""

    def __init__(self, request: Request) -> None:
        lightning.seed_everything(request.seed)
        self.request, self.sequences = request, Sequences(request.split)
        self.folder = tempfile.TemporaryDirectory()
        self.schema = _schema(self.sequences.num_items, request.dim)
        self.module = LightningModule(
            _model(request, self.schema), OptimizerFactory(learning_rate=request.lr)
        )

    def train(self) -> dict[str, Any]:
        pace = Pace(self.request.seconds)
        trainer = self._trainer(callbacks=[Stopwatch(pace)], max_epochs=-1, limit_val_batches=0)
        trainer.fit(self.module, datamodule=self._data(train=self._training()))
        return pace.rates

    def rank(self) -> dict[str, Any]:
        """Return the users per second of `predict`, with weights that are not trained."""
        events = self.sequences.held_out("valid")[: self.request.rank_users]
        few, many = self._histories("few", events[:RANK_BATCH]), self._histories("many", events)
        self._lists(few)
        timer = Timer()
        self._lists(many)
        return timer.rates(len(events))

    def fit(self) -> dict[str, Any]:
        """Train with early stopping; return the metrics of the epoch with the best validation."""
        best = ModelCheckpoint(self.folder.name, monitor="ndcg@10", mode="max")
        stop = EarlyStopping("ndcg@10", patience=self.request.patience, mode="max")
        data = self._data(
            train=self._training(),
            validate=self._histories("valid", self.sequences.held_out("valid")),
            test=self._histories("test", self.sequences.held_out("test")),
        )
        trainer = self._trainer(
            callbacks=[_metrics(), stop, best],
            max_epochs=self.request.max_epochs,
            enable_checkpointing=True,
        )
        trainer.fit(self.module, datamodule=data)
        epochs = trainer.current_epoch
        weights = torch.load(best.best_model_path, weights_only=False)["state_dict"]
        self.module.load_state_dict(weights)
        after = self._trainer(callbacks=[_metrics()])
        valid = after.validate(self.module, datamodule=data, verbose=False)[0]
        test = after.test(self.module, datamodule=data, verbose=False)[0]
        return {"epochs": epochs, "valid": valid, "test": test}

    def _lists(self, path: str) -> Any:
        """Return the lists of the users in the file."""
        lists = PandasTopItemsCallback(TOP, query_column=USER, item_column=ITEM)
        trainer = self._trainer(callbacks=[lists])
        trainer.predict(self.module, datamodule=self._data(predict=path), return_predictions=False)
        return lists.get_result()

    def _trainer(self, **options: Any) -> lightning.Trainer:
        defaults: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "precision": self.request.lightning_precision,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "num_sanity_val_steps": 0,
        }
        return lightning.Trainer(**(defaults | options))

    def _data(self, **path_of: str) -> ParquetModule:
        """Return RePlay's reader of the files of its stages, `train`, `validate` and so on."""
        longest, num_items = self.request.max_length, self.sequences.num_items
        transforms = make_default_sasrec_transforms(self.schema)
        if self.request.negatives:
            sampling = UniformNegativeSamplingTransform(num_items, self.request.negatives)
            transforms["train"].insert(-1, sampling)
        metadata = {
            name: {
                USER: {},
                ITEM: {"shape": longest + (name == "train"), "padding": num_items},
                **({} if name == "train" else {TARGET: {"shape": 1, "padding": -1}}),
            }
            for name in path_of
        }
        paths = {f"{name}_path": path for name, path in path_of.items()}
        sizes = dict.fromkeys(path_of, RANK_BATCH) | {"train": self.request.batch_users}
        return ParquetModule(sizes, metadata, transforms, **paths)

    def _training(self) -> str:
        users, histories = zip(*self.sequences.training(), strict=True)
        return self._write("train", users, histories)

    def _histories(self, name: str, events: Sequence[HeldOut]) -> str:
        users, histories = [e.user for e in events], [e.history for e in events]
        return self._write(name, users, histories, [[e.target] for e in events])

    def _write(
        self, name: str, users: Sequence[int], histories: Sequence[Items], targets: Any = None
    ) -> str:
        columns = {USER: pa.array(users), ITEM: pa.array(histories)}
        if targets is not None:
            columns[TARGET] = pa.array(targets)
        path = str(Path(self.folder.name) / f"{name}.parquet")
        pq.write_table(pa.table(columns), path)
        return path


def _schema(num_items: int, dim: int) -> TensorSchema:
    item = TensorFeatureInfo(
        ITEM,
        is_seq=True,
        feature_type=FeatureType.CATEGORICAL,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, ITEM)],
        cardinality=num_items,
        padding_value=num_items,
        embedding_dim=dim,
    )
    return TensorSchema([item])


def _model(request: Request, schema: TensorSchema) -> SasRec:
    """Return the model of `SasRec.from_params`, with the loss and the encoder of the form.

    LogInCE with one positive item is CE, computed only where there is a target.
    """
    encoder: torch.nn.Module = SasRecTransformerLayer(
        request.dim, request.num_heads, request.num_layers, request.dropout, activation="relu"
    )
    if "buckets" in request.form:
        encoder = LengthBucketedQueryEncoder(encoder, BUCKET)
    num_items = schema.item_id_features.item().padding_value
    body = SasRecBody(
        embedder=SequenceEmbedding(schema),
        embedding_aggregator=PositionAwareAggregator(
            SumAggregator(request.dim), request.max_length, request.dropout
        ),
        attn_mask_builder=DefaultAttentionMask(ITEM, request.num_heads),
        encoder=encoder,
        output_normalization=torch.nn.LayerNorm(request.dim),
    )
    if request.negatives:
        return SasRec(body, CESampled())
    if request.form.startswith("LogInCE"):
        return SasRec(body, LogInCE(cardinality=num_items))
    return SasRec(body, CE(ignore_index=num_items))


def _metrics() -> ComputeMetricsCallback:
    return ComputeMetricsCallback(["recall", "ndcg"], list(CUTOFFS), verbose=False)


if __name__ == "__main__":
    answer(RePlay, Request.read(Path(sys.argv[1])), ["replay-rec", "torch", "lightning"])
