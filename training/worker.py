"""The training loop of one rank. It knows a process group and no more of where it runs.

Everything random is drawn from (seed, epoch, step), so a resumed run repeats what it would have
done, and the noise of Eq. 19 belongs to a prefix, whichever rank holds it.
"""

import functools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, distributed

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.names import run_uri
from training import engine as ds
from training.data import SequenceReader, Step, batch_of
from training.graph import load_item_tables
from training.model import MDSRec
from training.validation import validate

log = logging.getLogger("training")

DROPOUT, NOISE = 0, 1  # streams of random numbers


@dataclass
class Progress:
    """How far a run is; saved with every checkpoint."""

    next_epoch: int = 0
    best_epoch: int = -1
    epochs: list[dict[str, float]] = field(default_factory=list)

    @property
    def best(self) -> float:
        return self.epochs[self.best_epoch]["ndcg@10"] if self.best_epoch >= 0 else -math.inf

    def add(self, epoch: dict[str, float]) -> bool:
        """Count an epoch as done -> whether it is the best so far."""
        better = epoch["ndcg@10"] > self.best
        self.epochs.append(epoch)
        if better:
            self.best_epoch = self.next_epoch
        self.next_epoch += 1
        return better

    def finished(self, experiment: Experiment) -> bool:
        config = experiment.train
        stale = self.next_epoch - 1 - self.best_epoch
        return self.next_epoch >= config.max_epochs or (
            self.best_epoch >= 0 and stale >= config.patience
        )


class Report(Protocol):
    """Called by every rank after every epoch; `save` writes the rank's part of a checkpoint into a
    folder.
    """

    def __call__(self, metrics: dict[str, float], save: Callable[[Path], None]) -> None: ...


def train(
    experiment: Experiment, device: torch.device, checkpoint: Path | None, report: Report
) -> Progress:
    """Train to the end, from `checkpoint` where there is one; rank 0 keeps history.json and
    best.safetensors.
    """
    rank = distributed.get_rank()
    item_tables = load_item_tables(experiment)
    reader = SequenceReader(experiment)
    model = MDSRec(experiment, item_tables)
    model.initialize(experiment.seed)
    num_parameters = sum(p.numel() for p in model.parameters())
    engine = ds.initialize(model, experiment, device)
    progress = Progress()
    if checkpoint is not None:
        progress = Progress(**ds.load_checkpoint(engine, checkpoint))
        log.info("resumed after epoch %d", progress.next_epoch - 1)
    run = run_uri(experiment)
    facts = {"num_parameters": num_parameters, "num_workers": distributed.get_world_size()}
    while not progress.finished(experiment):
        epoch = _epoch(engine, experiment, reader, progress.next_epoch, device)
        if progress.add(epoch):
            weights = ds.whole_weights(engine, {"dataset": item_tables.fingerprint})
            if weights is not None:
                files.write_bytes(f"{run}/best.safetensors", weights)
        if rank == 0:
            log.info("%s", _line(epoch, progress))
            files.write_json(
                f"{run}/history.json",
                {**asdict(progress), **facts, "finished": progress.finished(experiment)},
            )
        report(epoch, functools.partial(ds.save_checkpoint, engine, state=asdict(progress)))
    return progress


def _epoch(
    engine: Any, experiment: Experiment, reader: SequenceReader, epoch: int, device: torch.device
) -> dict[str, float]:
    started = time.perf_counter()
    sums = _train_epoch(engine, experiment, reader, epoch, device)
    trained = time.perf_counter() - started
    validation = validate(engine, experiment, reader, device)
    losses = sums[1:] / sums[0]
    named = zip(("fused", *experiment.modalities), losses.tolist(), strict=True)
    return {
        "epoch": epoch,
        "loss": float(engine.module.channel_weights.cpu().double() @ losses),
        **{f"loss_{channel}": loss for channel, loss in named},
        **validation,
        "prefixes": int(sums[0]),
        "prefixes_per_second": float(sums[0]) / trained,
        "seconds": time.perf_counter() - started,
    }


def _train_epoch(
    engine: Any, experiment: Experiment, reader: SequenceReader, epoch: int, device: torch.device
) -> Tensor:
    """One pass over the training part -> prefixes, then the loss of each channel, summed over all
    ranks.
    """
    engine.train()
    totals = torch.zeros(2 + len(experiment.modalities), dtype=torch.float64)
    losses = torch.zeros(1 + len(experiment.modalities), dtype=torch.float64, device=device)
    for number, step in enumerate(reader.steps(epoch)):
        losses += take_step(engine, experiment, step, (epoch, number), device).double()
        totals[0] += step.num_prefixes
    distributed.all_reduce(losses)
    totals[1:] = losses.cpu()
    return totals


def take_step(
    engine: Any, experiment: Experiment, step: Step, position: tuple[int, int], device: torch.device
) -> Tensor:
    """One optimizer step on a global step -> this rank's loss of each channel, summed over its
    prefixes.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    batch = batch_of(step, rank, world_size, noise_of(experiment, step, position), device)
    torch.manual_seed(_seed(experiment, *position, DROPOUT, rank))
    losses: Tensor = engine(batch)
    # DeepSpeed averages gradients over the ranks; the objective is the mean over the step's
    # prefixes.
    engine.backward(engine.module.channel_weights @ losses * world_size / step.num_prefixes)
    engine.step()
    return losses.detach()


def noise_of(experiment: Experiment, step: Step, position: tuple[int, int]) -> Tensor:
    """logit(delta) of Eq. 19 for the prefixes of a step, in order -> [prefixes, |M|, K]."""
    generator = torch.Generator().manual_seed(_seed(experiment, *position, NOISE))
    shape = step.num_prefixes, len(experiment.modalities), experiment.model.num_centers
    return torch.rand(shape, generator=generator).logit(eps=1e-6)


def _seed(experiment: Experiment, *stream: int) -> int:
    return int(np.random.SeedSequence([experiment.seed, *stream]).generate_state(1, np.uint64)[0])


def _line(epoch: dict[str, float], progress: Progress) -> str:
    return (
        f"epoch {epoch['epoch']:>3}  loss {epoch['loss']:.4f}  "
        f"valid ndcg@10 {epoch['ndcg@10']:.4f}  recall@10 {epoch['recall@10']:.4f}  "
        f"{epoch['prefixes_per_second']:,.0f} prefixes/s  {epoch['seconds']:.1f} s  "
        f"best epoch {progress.best_epoch}"
    )
