"""The training loop of one rank. It needs a process group, but not Ray."""

import math
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.digests.json_text import with_digest
from mdsrec.errors import InputError
from mdsrec.run_paths import STARTED_FROM, RunPaths
from training.building import build_engine
from training.checkpoints.format import load_checkpoint
from training.checkpoints.saver import Saver
from training.checkpoints.weights import gather_weights
from training.data.prefetch import Prefetch
from training.data.sequences import EpochPosition, SequenceReader
from training.device import memory_used, origin
from training.distributed.control import CollectiveInputError, ControlGroup
from training.distributed.zero_state import full_shapes, weights_are_finite
from training.lifecycle.identity import REMEDY
from training.lifecycle.lease import Attempt
from training.lifecycle.signals import Signals, SignalSource, sigterm_received
from training.progress import EpochTotals, LossSums, Progress
from training.reporting import (
    Reporter,
    epoch_line,
    position_text,
    progress_figures,
    progress_line,
)
from training.step import Share, share_of, take_step
from training.validation import validate
from training.warm.start import check_start, load_start


class AttemptResult(NamedTuple):
    """The result of an attempt: the training is finished, or it was interrupted at `position`."""

    finished: bool
    restart: bool = False  # a worker's node leaves the cluster: start again without it
    position: str = ""
    is_saved: bool = True


def train(
    experiment: Experiment,
    device: torch.device,
    reporter: Reporter,
    is_leaving: Callable[[], bool] = sigterm_received,
    attempt: Attempt | None = None,
) -> AttemptResult:
    """Train from the newest checkpoint to the end, or until interrupted. Collective.

    `is_leaving` returns True once this worker's node is about to leave the cluster. `attempt` is
    the fencing token; None means that no other driver can train the run. CollectiveInputError if a
    restart would fail again.
    """
    return TrainingLoop(experiment, device, reporter, is_leaving, attempt).run()


class TrainingLoop:
    """The state of a training on one rank, restored from the newest checkpoint."""

    def __init__(
        self,
        experiment: Experiment,
        device: torch.device,
        reporter: Reporter,
        is_leaving: Callable[[], bool],
        attempt: Attempt | None,
    ) -> None:
        self.experiment, self.device, self.reporter = experiment, device, reporter
        self.paths = RunPaths.of(experiment)
        self.group = ControlGroup(experiment.train.timeout_minutes)
        try:
            self.engine, tables = build_engine(experiment, device, self.group)
        except InputError as error:  # of every rank
            raise CollectiveInputError(str(error)) from None
        self.fingerprint = tables.fingerprint
        owners = self.engine.module.owners
        order = None if owners is None else owners.order
        self.reader = SequenceReader(experiment, order=order)
        shapes = full_shapes(self.engine).values()
        # Sizes of the validation, which decide how its scores are rounded.
        sizes = experiment.eval.sized_for(device.type == "cuda")
        self.facts: dict[str, Any] = {
            "num_parameters": sum(math.prod(shape) for shape in shapes),
            "num_workers": self.group.world_size,
            "user_batch": sizes.users_together,
            "item_block": sizes.items_together,
        }
        if experiment.train.init_from is not None:
            self.facts[STARTED_FROM] = files.read_json(self.paths.initial)
        self.saver = Saver(self.paths.uri, self.group)
        self.progress = self._restore()
        minutes = experiment.train.checkpoint_minutes
        self.signals = SignalSource(self.paths.uri, self.group.rank, minutes, is_leaving, attempt)

    def _restore(self) -> Progress:
        checkpoints = self.saver.checkpoints
        name = checkpoints.find_newest()
        if name is None:
            self._start_from_run()
            return Progress()
        state = load_checkpoint(self.engine, files.join(checkpoints.uri, name))
        self._check_dataset(name, state.get("dataset"))
        progress = Progress.from_state(state)
        self.group.log_once(f"resumed at {position_text(progress)}")
        return progress

    def _start_from_run(self) -> None:
        """Set the weights to those that the driver carried from another run, if it should."""
        if self.experiment.train.init_from is None:
            return
        try:
            check_start(self.paths.initial_weights, self.fingerprint)
        except InputError as error:  # of every rank
            raise CollectiveInputError(str(error)) from None
        load_start(self.engine, self.paths.initial_weights)

    def _check_dataset(self, name: str, trained_on: str | None) -> None:
        """Raise CollectiveInputError if a checkpoint is of another data set.

        Those of older versions do not say theirs.
        """
        if trained_on not in (None, self.fingerprint):
            raise CollectiveInputError(
                f"run {self.experiment.name}: its checkpoint {name} is of data set {trained_on}, "
                f"but {self.experiment.root}/dataset is {self.fingerprint}: {REMEDY}"
            )

    def run(self) -> AttemptResult:
        """Train epoch by epoch until the training is finished or a signal ends it."""
        if self._is_finished():
            self._restore_history()
        while not self._is_finished():
            signals = self._run_steps()
            if not signals.end:
                self._finish_epoch()
                signals = self._combined(self._start_exchange())
            if signals.end and not self._is_finished():
                restart = signals.leave and not signals.stop
                return AttemptResult(False, restart, position_text(self.progress), self.is_saved)
        return AttemptResult(finished=True)

    def _restore_history(self) -> None:
        """Write history.json of a finished run again if it is lost: the checkpoint holds it."""
        if self.group.rank == 0 and not files.exists(self.paths.history):
            files.write_bytes(self.paths.history, self._history())

    def _is_finished(self) -> bool:
        return self.progress.is_finished(self.experiment)

    def _run_steps(self) -> Signals:
        """Take the rest of the epoch's steps; return early if a signal ends them."""
        epoch, before = self.progress.next_epoch, self.progress.totals
        sums = LossSums(before, len(self.engine.module.channels), self.device)
        self.engine.train()
        shares = Prefetch(self._shares(epoch, before.position))
        for share, position in shares:
            exchange = self._start_exchange()  # it overlaps with the step
            losses = take_step(self.engine, self.experiment, share)
            sums.add(losses, share.num_prefixes, position)
            self.reporter.report_step(epoch, position)
            signals = self._combined(exchange)
            if any(signals):
                self.progress.totals = self._checked_totals(sums)
                if signals.log:
                    self._log_progress(before)
                if signals.save or signals.end:
                    self._save()
                if signals.end:
                    shares.join()
                    return signals
        self.progress.totals = self._checked_totals(sums)
        return Signals()

    def _shares(self, epoch: int, start: EpochPosition) -> Iterator[tuple[Share, EpochPosition]]:
        """Prepare this rank's share of each step after `start`."""
        for step, position in self.reader.steps_from(epoch, start):
            at = (epoch, position.number - 1)
            yield share_of(self.engine.module, self.experiment, step, at, self.device), position

    def _start_exchange(self) -> Callable[[], list[bool]]:
        return self.group.start_any(self.signals.current())

    def _combined(self, exchange: Callable[[], list[bool]]) -> Signals:
        """Return the signals of all ranks. CollectiveInputError if the lease is lost."""
        signals = Signals(*exchange())
        if signals.superseded:
            raise CollectiveInputError(
                f"{self.paths.uri}: another driver or attempt has taken over this run, so this one "
                "ends without saving: to train both, choose another name"
            )
        return signals

    def _checked_totals(self, sums: LossSums) -> EpochTotals:
        """Return the totals over all ranks.

        CollectiveInputError if a loss or a weight is not finite, so that it is never saved.
        """
        totals = sums.totals()
        what, step = "the weights are", totals.position.number
        if all(map(math.isfinite, totals.losses)):
            if self.group.all(weights_are_finite(self.engine)):
                return totals
        else:
            channel, step = sums.first_bad()
            what = f"the loss of channel {self.engine.module.channels[channel]} is"
        raise CollectiveInputError(
            f"run {self.experiment.name}: {what} not finite at epoch {self.progress.next_epoch}, "
            f"step {step}, learning rate {self._learning_rate():g}: lower optim.lr or set "
            "optim.gradient_clipping, under another name or with --fresh"
        )

    def _log_progress(self, before: EpochTotals) -> None:
        totals = self.progress.totals
        loss = self._objective(_mean_losses(totals))
        figures = progress_figures(self.progress.next_epoch, totals, before, loss)
        self.group.log_once(progress_line(figures, totals, before))
        self.reporter.report_progress(figures)
        self.signals.restart_log_timer()

    def _finish_epoch(self) -> None:
        """Validate, keep the weights if they are the best so far, save and report."""
        started = time.perf_counter()
        totals, losses = self.progress.totals, _mean_losses(self.progress.totals)
        validation = validate(self.engine, self.experiment, self.reader, self.device)
        named = zip(self.engine.module.channels, losses.tolist(), strict=True)
        metrics = {
            "epoch": self.progress.next_epoch,
            "loss": self._objective(losses),
            **{f"loss_{channel}": loss for channel, loss in named},
            **validation,
            "prefixes": totals.num_prefixes,
            "prefixes_per_second": totals.num_prefixes / totals.seconds,
            "seconds": totals.seconds + time.perf_counter() - started,
            "learning_rate": self._learning_rate(),
            **memory_used(self.device),
            **self._bytes_sent(),
        }
        if self.progress.finish_epoch(metrics):
            tag = self.group.broadcast_from_first(uuid.uuid4().hex[:8])
            weights = gather_weights(self.engine, {"dataset": self.fingerprint}, tag)
            self.saver.add_weights(weights)
        if self.group.rank == 0:
            self.saver.add_file("history.json", self._history())
        self._save()
        self.group.log_once(epoch_line(metrics, self.progress.best_epoch))
        self.reporter.report_epoch(metrics)

    def _bytes_sent(self) -> dict[str, float]:
        """Return the GiB that rank 0 sent in the epoch, and log them, if ranks own items."""
        owners = self.engine.module.owners
        if owners is None:
            return {}
        sent = owners.take_bytes_sent()
        parts = ", ".join(f"{what} {bytes_ / 2**20:,.1f}" for what, bytes_ in sent.items())
        self.group.log_once(f"rank 0 sent in this epoch, in MiB: {parts or 'nothing'}")
        return {"sent_gib": sum(sent.values()) / 2**30}

    def _history(self) -> bytes:
        facts = {**self.facts, **origin(self.device), "finished": self._is_finished()}
        return with_digest({**self.progress.history(), **facts})

    def _save(self) -> None:
        self.signals.check_storage()  # the lease may have been lost since the last check
        self._combined(self._start_exchange())
        name = self.progress.checkpoint_name
        state = {**self.progress.state(), "dataset": self.fingerprint}
        self.is_saved = self.saver.save(self.engine, name, state, self._is_finished())
        self.signals.restart_save_timer()

    def _objective(self, losses: Tensor) -> float:
        return float(self.engine.module.channel_weights.cpu().double() @ losses)

    def _learning_rate(self) -> float:
        return float(self.engine.get_lr()[0])


def _mean_losses(totals: EpochTotals) -> Tensor:
    """Return the loss of each channel per prefix [C]."""
    return torch.tensor(totals.losses, dtype=torch.float64) / totals.num_prefixes
