"""The stages that a GPU computes for a model: a step of training, validation, and ranking."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed
from torch.optim import Adam, Optimizer

from benchmarks.gpu_harness.counts import Counts
from benchmarks.gpu_harness.device import pretended_gpu
from benchmarks.gpu_harness.tensor import CUDA, counted, host_value
from evaluation.ranking import seen_pairs
from mdsrec.config import Experiment
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader, Target
from training.data.windows import Step
from training.distributed.engine import deepspeed_config, take_item_parameters
from training.inference import user_vectors
from training.layers.queries import Queries
from training.models.base import Model
from training.models.registry import build_model
from training.sharding.own_tables import load_own_tables
from training.sharding.owners import owners_of
from training.step import share_of, take_step
from training.validation import validate

HOST = torch.device("cpu")
TOP = 5  # items of a recommendation


class PlainEngine:
    """The part of a DeepSpeed engine that a step uses, on one device."""

    def __init__(self, model: Model, experiment: Experiment) -> None:
        self.module, self.experiment = model, experiment
        self.item_parameters = take_item_parameters(model, experiment)
        self.optimizer: Optimizer = Adam(model.parameters(), lr=experiment.optim.lr, fused=True)
        self.counts_of: dict[str, Counts] = {}

    def __call__(self, batch: Any) -> Tensor:
        settings = deepspeed_config(self.experiment)["torch_autocast"]
        self.counts_of["forward"] = counted()
        device = self.module.channel_weights.device.type
        with torch.autocast(device, torch.bfloat16, enabled=settings["enabled"]):
            losses: Tensor = self.module(batch)
        return losses

    def backward(self, loss: Tensor, *, scale_wrt_gas: bool) -> None:
        self.counts_of["backward"] = counted()
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        self.counts_of["optimizer"] = counted()
        self.optimizer.step()

    def train(self) -> None:
        self.module.train()

    def eval(self) -> None:
        self.module.eval()

    def get_lr(self) -> Sequence[float]:
        return [self.experiment.optim.lr]

    def zero_optimization_stage(self) -> int:
        return 0


class Taken(NamedTuple):
    """A step of training: losses [C], gradients by name, and the counts of its parts."""

    losses: Tensor
    gradients: dict[str, Tensor]
    counts_of: dict[str, Counts]


class Ranked(NamedTuple):
    """Ranks of targets, lists of the best items, and the counts of the parts of this work."""

    better: Tensor  # items with a higher score than each target
    ties: Tensor  # other items with the same score
    items: Tensor  # the best ones
    counts_of: dict[str, Counts]


@contextmanager
def one_rank(store: str) -> Iterator[None]:
    """Use a process group of this process only; `store` is a file that does not exist."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def new_model(experiment: Experiment, sharded: bool = False) -> Model:
    """Return a model with initial weights, in the form where ranks own items if `sharded`."""
    owners = None
    if sharded:
        num_items = load_item_tables(experiment).num_items
        owners = owners_of(num_items, experiment.train.timeout_minutes)
    tables = load_item_tables(experiment) if owners is None else load_own_tables(experiment, owners)
    model = build_model(experiment, tables)
    model.owners = owners
    model.initialize(experiment.seed)
    return model


def first_step(experiment: Experiment) -> Step:
    return next(iter(SequenceReader(experiment).steps(0)))


def step_on_cpu(model: Model, experiment: Experiment, step: Step) -> Taken:
    return step_on(model, experiment, step, HOST)


def step_on_gpu(model: Model, experiment: Experiment, step: Step) -> Taken:
    with pretended_gpu():
        return step_on(model, experiment, step, CUDA)


def step_on(
    model: Model,
    experiment: Experiment,
    step: Step,
    device: torch.device,
    inside: AbstractContextManager[None] | None = None,
) -> Taken:
    """Take a step on a device; forward, backward and optimizer are `inside` a context."""
    engine = PlainEngine(model.to(device), experiment)
    engine.train()
    engine.counts_of["prepare"] = counted()
    share = share_of(model, experiment, step, (0, 0), device)
    engine.counts_of["begin"] = counted()
    with inside or nullcontext():
        on_device = take_step(engine, experiment, share)  # type: ignore[arg-type]
    losses = host_value(on_device)
    gradients = {n: host_value(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    return Taken(losses, gradients, engine.counts_of)


def second_step_on_gpu(model: Model, experiment: Experiment) -> dict[str, Counts]:
    """Take the first two steps -> the counts of the second."""
    with pretended_gpu():
        engine = PlainEngine(model.to(CUDA), experiment)
        engine.train()
        for number, step in enumerate(islice(SequenceReader(experiment).steps(0), 2)):
            engine.optimizer.zero_grad()
            share = share_of(model, experiment, step, (0, number), CUDA)
            engine.counts_of["begin"] = counted()
            take_step(engine, experiment, share)  # type: ignore[arg-type]
    return engine.counts_of


def validate_on_gpu(model: Model, experiment: Experiment) -> tuple[dict[str, float], Counts]:
    """Return the metrics of the validation targets."""
    with pretended_gpu():
        engine, counts = PlainEngine(model.to(CUDA), experiment), counted()
        reader = SequenceReader(experiment)
        return validate(engine, experiment, reader, CUDA), counts  # type: ignore[arg-type]


def validate_on_cpu(model: Model, experiment: Experiment) -> dict[str, float]:
    engine, reader = PlainEngine(model, experiment), SequenceReader(experiment)
    return validate(engine, experiment, reader, HOST)  # type: ignore[arg-type]


def rank_on_cpu(model: Model, experiment: Experiment, targets: Sequence[Target]) -> Ranked:
    return _rank(model, experiment, targets)


def rank_on_gpu(model: Model, experiment: Experiment, targets: Sequence[Target]) -> Ranked:
    with pretended_gpu():
        return _rank(model.to(CUDA), experiment, targets)


@torch.no_grad()
def _rank(model: Model, experiment: Experiment, targets: Sequence[Target]) -> Ranked:
    """Rank the targets without the items seen, and find the best items."""
    model.eval()
    counts_of, block = {"item vectors": counted()}, experiment.eval.items_together
    items, histories = model.item_vectors(), [target.history for target in targets]
    counts_of["user vectors"] = counted()
    queries = Queries(user_vectors(model, histories, items), items.vectors)
    seen = torch.from_numpy(seen_pairs(histories))
    wanted = torch.from_numpy(np.array([target.target for target in targets], dtype=np.int64))
    counts_of["ranks"] = counted()
    weights = model.channel_weights
    better, ties = queries.count(weights[None], wanted, block, seen)
    counts_of["best items"] = counted()
    _, best = queries.top(weights, TOP, block, seen)
    return Ranked(host_value(better), host_value(ties), host_value(best), counts_of)
