"""A job of an actor: it writes parts of tables with a trained model, or a share of its items."""

import io
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from evaluation.actors.group import Member
from evaluation.actors.parts import write_part
from mdsrec.config import Experiment
from mdsrec.jobs import promises
from training.data.sequences import SequenceReader
from training.distributed.ray_session import cpus_per_gpu
from training.inference import TrainedModel, load_trained
from training.own_share.loading import load_share

ONLY_MEMBER = Member(0, 1)


class Shard(NamedTuple):
    """Users (or items) [first, last): one Parquet part, a file `part-NUMBER-CRC.parquet`."""

    number: int
    first: int
    last: int


class ShardWorker:
    """A job that writes the parts of one table, in each actor that has it.

    `weight_of` are the weights of the channels. Subclasses define `rows`; `options` are theirs.
    Tables and weights are held to the fingerprints `promised`. `model` is that of the run, if it
    is loaded already.
    """

    kind = "users"  # of which a shard has a range

    def __init__(
        self,
        experiment: Experiment,
        weight_of: Mapping[str, float],
        options: Any = None,
        promised: Mapping[str, str] | None = None,
        member: Member = ONLY_MEMBER,
        model: TrainedModel | None = None,
    ) -> None:
        promises.hold(promised or {})
        self.on_gpu = bool(ray.is_initialized() and ray.get_gpu_ids())
        torch.set_num_threads(cpus_per_gpu() if self.on_gpu else 1)
        self.experiment = experiment.sized_for(self.on_gpu)
        self.options, self.member = options, member
        self.weight_of, self._loaded = weight_of, model

    @classmethod
    def open_reader(cls, experiment: Experiment) -> SequenceReader:
        """Open the table whose rows are the users."""
        return SequenceReader(experiment)

    @classmethod
    def total(cls, experiment: Experiment) -> int:
        """Return the number of all users (or items)."""
        return cls.open_reader(experiment).num_users

    @cached_property
    def reader(self) -> SequenceReader:
        return self.open_reader(self.experiment)

    @cached_property
    def model(self) -> TrainedModel:
        """Return the model of the run, with any weights of the channels."""
        device = torch.device("cuda" if self.on_gpu else "cpu")
        load = load_share if self.member.size > 1 else load_trained
        return self._loaded or load(self.experiment, device)

    @cached_property
    def trained(self) -> TrainedModel:
        return self.model.with_weights(self.weight_of)

    def writes(self, shard: Shard) -> bool:
        """Return whether this actor of its group writes the part of a shard."""
        return self.member.rank == 0

    def rows(self, shard: Shard) -> pa.Table:
        """Return the rows of the table for a shard; only those of the actor that writes count."""
        raise NotImplementedError

    def write_part(self, shard: Shard, version: str) -> int:
        """Write the part of a shard into the folder `version`, atomically -> number of rows.

        All actors of a group compute it, and one writes it.
        """
        rows, content = self.rows(shard), io.BytesIO()
        if not self.writes(shard):
            return 0
        pq.write_table(rows, content, compression="zstd")
        write_part(version, shard.number, content.getbuffer())
        return int(rows.num_rows)


class AskedWorker(ShardWorker):
    """A job that answers one question about the trained model."""

    def answer(self) -> Any:
        """Return the answer."""
        raise NotImplementedError
