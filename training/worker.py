"""The training loop of one rank. It knows a process group and no more of where it runs.

Everything random is drawn from (seed, epoch, step), so a resumed run repeats what it would have
done, and the noise of Eq. 19 belongs to a prefix, whichever rank holds it.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, distributed

from mdsrec.config import Experiment
from mdsrec.names import run_uri
from training import engine as ds
from training.calls import Calls, Clock
from training.checkpoints import local_copy
from training.data import SequenceReader, Step, batch_of
from training.graph import load_item_tables
from training.model import MDSRec
from training.negatives import Negatives
from training.progress import Partial, Progress, Sums, line_after, line_within
from training.ranks import JointError, Ranks
from training.saving import Saver, log_first, memory_used, weights_are_finite
from training.stopping import node_leaves
from training.validation import validate

log = logging.getLogger("training")

DROPOUT, NOISE, NEGATIVES = 0, 1, 2  # streams of random numbers


class Report(Protocol):
    """Called by every rank after every epoch, when its checkpoint stands."""

    def __call__(self, metrics: dict[str, float]) -> None: ...


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
) -> Ending:
    """Train from the newest checkpoint to the end, or until called off.

    Rank 0 keeps history.json and best.safetensors. JointError where going on is of no use.
    """
    return Training(experiment, device, leaves).run(report)


class Training:
    def __init__(
        self, experiment: Experiment, device: torch.device, leaves: Callable[[], bool]
    ) -> None:
        self.experiment, self.device = experiment, device
        self.run_uri, self.ranks = run_uri(experiment), Ranks()
        tables = load_item_tables(experiment)
        self.fingerprint = tables.fingerprint
        self.reader = SequenceReader(experiment)
        model = MDSRec(experiment, tables)
        model.initialize(experiment.seed)
        self.facts = {
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "num_workers": self.ranks.world_size,
        }
        self.engine = ds.initialize(model, experiment, device)
        self.saver = Saver(self.run_uri, self.ranks)
        self.progress = self._restored()
        minutes = experiment.train.checkpoint_minutes
        self.clock = Clock(self.run_uri, self.ranks.rank, minutes, leaves)

    def _restored(self) -> Progress:
        checkpoints = self.saver.checkpoints
        name = checkpoints.newest()
        if name is None:
            return Progress()
        with local_copy(f"{checkpoints.uri}/{name}") as folder:
            progress = Progress.from_state(ds.load_checkpoint(self.engine, folder))
        log_first(self.ranks, f"resumed at {progress.where()}")
        return progress

    def run(self, report: Report) -> Ending:
        while not self.progress.finished(self.experiment):
            calls = self._steps()
            if not calls.end:
                self._close_epoch(report)
                calls = Calls(*self.ranks.ask(self.clock.calls())())
            if calls.end and not self.progress.finished(self.experiment):
                leaves = calls.leave and not calls.stop
                return Ending(False, leaves, self.progress.where(), self.is_saved)
        return Ending(True)

    def _steps(self) -> Calls:
        """The rest of the epoch's steps, or those until a call ends them."""
        epoch, before = self.progress.next_epoch, self.progress.partial
        sums = Sums(before, 1 + len(self.experiment.modalities), self.device)
        self.engine.train()
        for step, place in self.reader.steps_from(epoch, before.place):
            answer = self.ranks.ask(self.clock.calls())  # travels while the step computes
            at = (epoch, place.number - 1)
            losses = take_step(self.engine, self.experiment, step, at, self.device)
            sums.add(losses, step.num_prefixes, place)
            calls = Calls(*answer())
            if any(calls):
                self.progress.partial = self._checked(sums)
                if calls.line:
                    self._say(before)
                if calls.save or calls.end:
                    self._save()
                if calls.end:
                    return calls
        self.progress.partial = self._checked(sums)
        return Calls(False, False, False, False)

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
            name = ("fused", *self.experiment.modalities)[channel]
            where = f"the loss of channel {name} is"
        raise JointError(
            f"run {self.experiment.name}: {where} no number (NaN or infinite) at epoch "
            f"{self.progress.next_epoch}, step {number}, learning rate {self._lr():g}: "
            "lower optim.lr or set optim.gradient_clipping, under another name or with --fresh"
        )

    def _say(self, before: Partial) -> None:
        partial = self.progress.partial
        loss = self._objective(self._means(partial))
        log_first(self.ranks, line_within(self.progress.next_epoch, partial, before, loss))
        self.clock.said()

    def _close_epoch(self, report: Report) -> None:
        """Validate, keep the weights if they are the best so far, save, report."""
        started = time.perf_counter()
        trained, losses = self.progress.partial, self._means(self.progress.partial)
        validation = validate(self.engine, self.experiment, self.reader, self.device)
        named = zip(("fused", *self.experiment.modalities), losses.tolist(), strict=True)
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
        log_first(self.ranks, line_after(epoch, self.progress))
        report(epoch)

    def _history(self) -> bytes:
        history = asdict(self.progress)
        del history["partial"]
        finished = self.progress.finished(self.experiment)
        return json.dumps({**history, **self.facts, "finished": finished}, indent=2).encode()

    def _save(self) -> None:
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


def take_step(
    engine: Any, experiment: Experiment, step: Step, position: tuple[int, int], device: torch.device
) -> Tensor:
    """One optimizer step on a global step -> this rank's loss of each channel, summed over its
    prefixes.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    parts = experiment.train.accumulation
    noise = noise_of(experiment, step, position)
    negatives = negatives_of(engine.module, experiment, step, position)
    torch.manual_seed(_seed(experiment, *position, DROPOUT, rank))
    total = torch.zeros_like(engine.module.channel_weights)
    for part in range(parts):
        place = rank + part * world_size, parts * world_size
        batch = batch_of(step, *place, noise, device, negatives)
        losses: Tensor = engine(batch)
        # DeepSpeed sums gradients over the parts and averages them over the ranks; the objective is
        # the mean over the step's prefixes.
        loss = engine.module.channel_weights @ losses * world_size / step.num_prefixes
        engine.backward(loss, scale_wrt_gas=False)
        engine.step()  # of the optimizer after the last part alone
        total += losses.detach()
    return total


def noise_of(experiment: Experiment, step: Step, position: tuple[int, int]) -> Tensor:
    """logit(delta) of Eq. 19 for the prefixes of a step, in order -> [prefixes, |M|, K]."""
    generator = torch.Generator().manual_seed(_seed(experiment, *position, NOISE))
    shape = step.num_prefixes, len(experiment.modalities), experiment.model.num_centers
    return torch.rand(shape, generator=generator).logit(eps=1e-6)


def negatives_of(
    model: MDSRec, experiment: Experiment, step: Step, position: tuple[int, int]
) -> Negatives | None:
    """What every prefix of a step is set against; None in the full loss."""
    if model.sampler is None:
        return None
    return model.sampler.draw(step.targets, _seed(experiment, *position, NEGATIVES))


def _seed(experiment: Experiment, *stream: int) -> int:
    return int(np.random.SeedSequence([experiment.seed, *stream]).generate_state(1, np.uint64)[0])
