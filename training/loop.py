"""The training loop of one rank. It knows a process group and no more of where it runs."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor

from mdsrec.config import Experiment
from mdsrec.table_names import run_uri
from training.checkpoints.format import load_checkpoint
from training.checkpoints.saver import Saver
from training.checkpoints.store import local_copy
from training.data.item_tables import load_item_tables
from training.data.prefetch import ahead
from training.data.sequences import EpochPosition, SequenceReader
from training.distributed import engine as ds
from training.distributed.control import JointError, Ranks
from training.distributed.zero_state import weights_are_finite
from training.lifecycle.lease import Attempt
from training.lifecycle.signals import NOTHING, Calls, Clock
from training.lifecycle.stopping import node_leaves
from training.models.registry import build_model
from training.progress import (
    Partial,
    Progress,
    Sums,
    figures_within,
    line_after,
    line_within,
    memory_used,
)
from training.step import Share, share_of, take_step
from training.validation import validate

log = logging.getLogger("training")

Report = Callable[[dict[str, float]], None]
"""Called by every rank with an epoch's metrics, when its checkpoint stands."""


Show = Callable[[int, EpochPosition], None]
"""Called after every step with its epoch and the place it led to."""


Tell = Callable[[dict[str, float]], None]
"""Called with the figures of an epoch that has not ended, as often as a line says them."""


class Ending(NamedTuple):
    """How an attempt ended: it trained to the end, or was called off at `where`."""

    finished: bool
    leaves: bool = False  # to start again without the node that goes
    where: str = ""
    is_saved: bool = True


def train(
    experiment: Experiment,
    device: torch.device,
    report: Report,
    leaves: Callable[[], bool] = node_leaves,
    attempt: Attempt | None = None,
    show: Show | None = None,
    tell: Tell | None = None,
) -> Ending:
    """Train from the newest checkpoint to the end, or until called off.

    Rank 0 keeps history.json and best.safetensors. `attempt` is what they are written
    for, where another could take over the run. JointError where going on is of no use.
    """
    return Training(experiment, device, leaves, attempt, show, tell).run(report)


class Training:
    def __init__(
        self,
        experiment: Experiment,
        device: torch.device,
        leaves: Callable[[], bool],
        attempt: Attempt | None,
        show: Show | None,
        tell: Tell | None,
    ) -> None:
        self.experiment, self.device = experiment, device
        self.run_uri, self.show, self.tell = run_uri(experiment), show, tell
        self.ranks = Ranks(experiment.train.timeout_minutes)
        tables = load_item_tables(experiment)
        self.fingerprint = tables.fingerprint
        self.reader = SequenceReader(experiment)
        model = build_model(experiment, tables)
        model.initialize(experiment.seed)
        self.facts = {
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "num_workers": self.ranks.world_size,
        }
        self.engine = ds.initialize(model, experiment, device)
        self.saver = Saver(self.run_uri, self.ranks)
        self.progress = self._restored()
        minutes = experiment.train.checkpoint_minutes
        self.clock = Clock(self.run_uri, self.ranks.rank, minutes, leaves, attempt)

    def _restored(self) -> Progress:
        checkpoints = self.saver.checkpoints
        name = checkpoints.newest()
        if name is None:
            return Progress()
        with local_copy(f"{checkpoints.uri}/{name}") as folder:
            progress = Progress.from_state(load_checkpoint(self.engine, folder))
        self.ranks.log(f"resumed at {progress.where()}")
        return progress

    def run(self, report: Report) -> Ending:
        while not self.progress.finished(self.experiment):
            calls = self._steps()
            if not calls.end:
                self._close_epoch(report)
                calls = self._heard(self.ranks.ask(self.clock.calls()))
            if calls.end and not self.progress.finished(self.experiment):
                leaves = calls.leave and not calls.stop
                return Ending(False, leaves, self.progress.where(), self.is_saved)
        return Ending(True)

    def _steps(self) -> Calls:
        """The rest of the epoch's steps, or those until a call ends them."""
        epoch, before = self.progress.next_epoch, self.progress.partial
        sums = Sums(before, len(self.engine.module.channels), self.device)
        self.engine.train()
        for share, place in ahead(self._shares(epoch, before.place)):
            answer = self.ranks.ask(self.clock.calls())  # travels while the step computes
            losses = take_step(self.engine, self.experiment, share)
            sums.add(losses, share.num_prefixes, place)
            if self.show:
                self.show(epoch, place)
            calls = self._heard(answer)
            if any(calls):
                self.progress.partial = self._checked(sums)
                if calls.line:
                    self._say(before)
                if calls.save or calls.end:
                    self._save()
                if calls.end:
                    return calls
        self.progress.partial = self._checked(sums)
        return NOTHING

    def _shares(self, epoch: int, start: EpochPosition) -> Iterator[tuple[Share, EpochPosition]]:
        for step, place in self.reader.steps_from(epoch, start):
            at = (epoch, place.number - 1)
            yield share_of(self.engine.module, self.experiment, step, at, self.device), place

    def _heard(self, answer: Callable[[], list[bool]]) -> Calls:
        """What any rank calls for; JointError if this attempt was given up."""
        calls = Calls(*answer())
        if calls.lost:
            raise JointError(
                f"{self.run_uri}: another driver or attempt trains it now: leave it to that one, "
                "or choose another name"
            )
        return calls

    def _checked(self, sums: Sums) -> Partial:
        """The sums over all ranks; JointError if they or the weights are no numbers, so that
        neither is ever saved.
        """
        partial = sums.total()
        where, number = "the weights are", partial.place.number
        if all(map(math.isfinite, partial.losses)):
            if self.ranks.all(weights_are_finite(self.engine)):
                return partial
        else:
            channel, number = sums.first_bad()
            name = self.engine.module.channels[channel]
            where = f"the loss of channel {name} is"
        raise JointError(
            f"run {self.experiment.name}: {where} no number (NaN or infinite) at epoch "
            f"{self.progress.next_epoch}, step {number}, learning rate {self._lr():g}: "
            "lower optim.lr or set optim.gradient_clipping, under another name or with --fresh"
        )

    def _say(self, before: Partial) -> None:
        partial = self.progress.partial
        loss = self._objective(self._means(partial))
        figures = figures_within(self.progress.next_epoch, partial, before, loss)
        self.ranks.log(line_within(figures, partial, before))
        if self.tell:
            self.tell(figures)
        self.clock.said()

    def _close_epoch(self, report: Report) -> None:
        """Validate, keep the weights if they are the best so far, save, report."""
        started = time.perf_counter()
        trained, losses = self.progress.partial, self._means(self.progress.partial)
        validation = validate(self.engine, self.experiment, self.reader, self.device)
        named = zip(self.engine.module.channels, losses.tolist(), strict=True)
        epoch = {
            "epoch": self.progress.next_epoch,
            "loss": self._objective(losses),
            **{f"loss_{channel}": loss for channel, loss in named},
            **validation,
            "prefixes": trained.prefixes,
            "prefixes_per_second": trained.prefixes / trained.seconds,
            "seconds": trained.seconds + time.perf_counter() - started,
            "learning_rate": self._lr(),
            **memory_used(self.device),
        }
        if self.progress.add(epoch):
            weights = ds.whole_weights(self.engine, {"dataset": self.fingerprint})
            if weights is not None:
                self.saver.keep("best.safetensors", weights)
        if self.ranks.rank == 0:
            self.saver.keep("history.json", self._history())
        self._save()
        self.ranks.log(line_after(epoch, self.progress))
        report(epoch)

    def _history(self) -> bytes:
        history = asdict(self.progress)
        del history["partial"]
        finished = self.progress.finished(self.experiment)
        return json.dumps({**history, **self.facts, "finished": finished}, indent=2).encode()

    def _save(self) -> None:
        self.clock.look()  # not to write into a run that was taken over meanwhile
        self._heard(self.ranks.ask(self.clock.calls()))
        is_last = self.progress.finished(self.experiment)
        state = self.progress.state()
        self.is_saved = self.saver.save(self.engine, self.progress.name, state, is_last)
        self.clock.saved()

    def _means(self, partial: Partial) -> Tensor:
        return torch.tensor(partial.losses, dtype=torch.float64) / partial.prefixes

    def _objective(self, losses: Tensor) -> float:
        return float(self.engine.module.channel_weights.cpu().double() @ losses)

    def _lr(self) -> float:
        return float(self.engine.get_lr()[0])
