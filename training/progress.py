"""How far a run is: what a checkpoint says of it beside the weights, and what people read."""

import math
import resource
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed

from mdsrec.config import Experiment
from training.data.sequences import EpochPosition

NEVER = 2**62


@dataclass
class Partial:
    """What an epoch has come to so far, over all ranks."""

    place: EpochPosition = field(default_factory=EpochPosition)
    prefixes: int = 0
    losses: list[float] = field(default_factory=list)  # of each channel, summed over the prefixes
    seconds: float = 0.0


@dataclass
class Progress:
    """How far a run is; saved with every checkpoint."""

    next_epoch: int = 0
    best_epoch: int = -1
    epochs: list[dict[str, float]] = field(default_factory=list)
    partial: Partial = field(default_factory=Partial)  # of `next_epoch`

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        partial = dict(state["partial"])
        partial["place"] = EpochPosition(*partial["place"])
        return cls(**{**state, "partial": Partial(**partial)})

    def state(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def name(self) -> str:
        """Sorts as positions do."""
        return f"{self.next_epoch:05d}-{self.partial.place.number:010d}"

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
        self.partial = Partial()
        return better

    def finished(self, experiment: Experiment) -> bool:
        config = experiment.train
        stale = self.next_epoch - 1 - self.best_epoch
        return self.next_epoch >= config.max_epochs or (
            self.best_epoch >= 0 and stale >= config.patience
        )

    def where(self) -> str:
        """epoch 3, step 1,240 of about 5,000"""
        place = self.partial.place
        return f"epoch {self.next_epoch}" + (f", {_steps(place)}" if place.number else "")


class Sums:
    """The losses of an epoch's steps: this rank's on its device, on top of what a checkpoint said.

    `first_bad` is the first step at which this rank's loss of a channel was no number.
    """

    def __init__(self, before: Partial, num_channels: int, device: torch.device) -> None:
        self.before = before
        self.place, self.prefixes = before.place, before.prefixes
        self._losses = torch.zeros(num_channels, dtype=torch.float64, device=device)
        self._first_bad = torch.full((num_channels,), NEVER, device=device)
        self._started = time.perf_counter()

    def add(self, losses: Tensor, num_prefixes: int, place: EpochPosition) -> None:
        """Count a step, without waiting for its losses."""
        self._losses += losses.double()
        bad = torch.where(losses.isfinite(), NEVER, place.number)
        self._first_bad = torch.minimum(self._first_bad, bad)
        self.prefixes += num_prefixes
        self.place = place

    def total(self) -> Partial:
        """Over all ranks, which call it together."""
        losses = self._losses.clone()
        distributed.all_reduce(losses)
        before = self.before.losses or [0.0] * len(losses)
        seconds = self.before.seconds + time.perf_counter() - self._started
        found = [a + b for a, b in zip(before, losses.tolist(), strict=True)]
        return Partial(self.place, self.prefixes, found, seconds)

    def first_bad(self) -> tuple[int, int]:
        """The channel and the step of the epoch at which a loss was first no number, on any rank;
        every rank calls it.
        """
        first = self._first_bad.clone()
        distributed.all_reduce(first, distributed.ReduceOp.MIN)
        channel = int(first.argmin())
        return channel, int(first[channel])


def figures_within(epoch: int, partial: Partial, before: Partial, loss: float) -> dict[str, float]:
    """What is known of an epoch that has not ended, its pace since `before`."""
    seconds = partial.seconds - before.seconds
    pace = (partial.prefixes - before.prefixes) / seconds
    return {"epoch": epoch, "loss": loss, "prefixes_per_second": pace}


def line_within(figures: dict[str, float], partial: Partial, before: Partial) -> str:
    """How far an epoch is and how long it takes yet."""
    seconds, share = partial.seconds - before.seconds, partial.place.share
    left = seconds * (1 - share) / max(share - before.place.share, 1e-9)
    return (
        f"epoch {figures['epoch']:>3}  {_steps(partial.place)}  loss {figures['loss']:.4f}  "
        f"{figures['prefixes_per_second']:,.0f} prefixes/s  {_span(left)} left"
    )


def line_after(epoch: dict[str, float], progress: Progress) -> str:
    return (
        f"epoch {epoch['epoch']:>3}  loss {epoch['loss']:.4f}  "
        f"valid ndcg@10 {epoch['ndcg@10']:.4f}  recall@10 {epoch['recall@10']:.4f}  "
        f"{epoch['prefixes_per_second']:,.0f} prefixes/s  {epoch['seconds']:.1f} s  "
        f"best epoch {progress.best_epoch}"
    )


def _steps(place: EpochPosition) -> str:
    return f"step {place.number:,} of about {round(place.number / place.share):,}"


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def memory_used(device: torch.device) -> dict[str, float]:
    """The most that this process held so far, in GiB."""
    found = {"memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        found["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found
