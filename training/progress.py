"""The progress of a training: what a checkpoint stores about it besides weights and moments."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed

from mdsrec.config import Experiment
from training.data.sequences import EpochPosition

NEVER = 2**62  # a step that no epoch reaches


@dataclass
class EpochTotals:
    """Totals of the steps of an epoch so far, over all ranks."""

    position: EpochPosition = field(default_factory=EpochPosition)
    num_prefixes: int = 0
    losses: list[float] = field(default_factory=list)  # of each channel, summed over the prefixes
    seconds: float = 0.0


@dataclass
class Progress:
    """The epochs that are finished, and the totals of `next_epoch`."""

    next_epoch: int = 0
    best_epoch: int = -1
    epochs: list[dict[str, float]] = field(default_factory=list)  # metrics of each finished one
    totals: EpochTotals = field(default_factory=EpochTotals)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        """Read the state that a checkpoint stores, of any release."""
        totals = state["partial"]
        return cls(
            next_epoch=state["next_epoch"],
            best_epoch=state["best_epoch"],
            epochs=state["epochs"],
            totals=EpochTotals(
                position=EpochPosition(*totals["place"]),
                num_prefixes=totals["prefixes"],
                losses=totals["losses"],
                seconds=totals["seconds"],
            ),
        )

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint: `history` and the totals of the unfinished epoch.

        Its keys are part of the checkpoint format.
        """
        totals = {
            "place": list(self.totals.position),
            "prefixes": self.totals.num_prefixes,
            "losses": self.totals.losses,
            "seconds": self.totals.seconds,
        }
        return {**self.history(), "partial": totals}

    def history(self) -> dict[str, Any]:
        """Return the finished epochs, as history.json stores them."""
        return {
            "next_epoch": self.next_epoch,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
        }

    @property
    def checkpoint_name(self) -> str:
        """Name of a checkpoint of this progress; names sort by progress."""
        return f"{self.next_epoch:05d}-{self.totals.position.number:010d}"

    @property
    def best(self) -> float:
        """Validation ndcg@10 of the best epoch; -inf before the first one."""
        return self.epochs[self.best_epoch]["ndcg@10"] if self.best_epoch >= 0 else -math.inf

    def finish_epoch(self, metrics: dict[str, float]) -> bool:
        """Add the metrics of `next_epoch` and return True if it is the best epoch so far."""
        is_best = metrics["ndcg@10"] > self.best
        self.epochs.append(metrics)
        if is_best:
            self.best_epoch = self.next_epoch
        self.next_epoch += 1
        self.totals = EpochTotals()
        return is_best

    def is_finished(self, experiment: Experiment) -> bool:
        """Return True after `max_epochs`, or `patience` epochs without a better one."""
        config = experiment.train
        epochs_since_best = self.next_epoch - 1 - self.best_epoch
        return self.next_epoch >= config.max_epochs or (
            self.best_epoch >= 0 and epochs_since_best >= config.patience
        )


class LossSums:
    """Sums of this rank's losses over the steps of an epoch, kept on its device.

    `before` are the totals that a checkpoint stored for the steps before.
    """

    def __init__(self, before: EpochTotals, num_channels: int, device: torch.device) -> None:
        self.before = before
        self.position, self.num_prefixes = before.position, before.num_prefixes
        self._losses = torch.zeros(num_channels, dtype=torch.float64, device=device)
        self._first_bad = torch.full((num_channels,), NEVER, device=device)  # step, by channel
        self._started = time.perf_counter()

    def add(self, losses: Tensor, num_prefixes: int, position: EpochPosition) -> None:
        """Add a step that led to `position`, without waiting for its losses."""
        self._losses += losses.double()
        bad = torch.where(losses.isfinite(), NEVER, position.number)
        self._first_bad = torch.minimum(self._first_bad, bad)
        self.num_prefixes += num_prefixes
        self.position = position

    def totals(self) -> EpochTotals:
        """Return the totals over all ranks. Collective."""
        losses = self._losses.clone()
        distributed.all_reduce(losses)
        before = self.before.losses or [0.0] * len(losses)
        return EpochTotals(
            position=self.position,
            num_prefixes=self.num_prefixes,
            losses=[a + b for a, b in zip(before, losses.tolist(), strict=True)],
            seconds=self.before.seconds + time.perf_counter() - self._started,
        )

    def first_bad(self) -> tuple[int, int]:
        """Return channel and step of the first loss on any rank that is not finite. Collective."""
        first = self._first_bad.clone()
        distributed.all_reduce(first, distributed.ReduceOp.MIN)
        channel = int(first.argmin())
        return channel, int(first[channel])
