"""The peers, and the commands that measure them and SASRec here in processes of their own."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import benchmarks
from benchmarks.measure import Reading, measure_command
from benchmarks.peers.request import Method, Request
from benchmarks.recbole.split import sasrec_overrides
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.config.models import SASRecConfig

POLL_SECONDS = 1.0  # between two checks of the limits; a process reports its own peak
REPOSITORY = Path(benchmarks.__file__ or "").resolve().parent.parent


class Peer(NamedTuple):
    """A library with a SASRec, and the forms of its training."""

    name: str
    module: str  # run by the peer's interpreter
    full: tuple[str, ...]  # forms of the softmax over all items
    sampled: tuple[str, ...]

    def forms(self, negatives: int) -> tuple[str, ...]:
        return self.sampled if negatives else self.full


PEERS = {
    "rectools": Peer(
        "RecTools", "benchmarks.peers.with_rectools", ("softmax",), ("sampled_softmax",)
    ),
    "replay": Peer(
        "RePlay",
        "benchmarks.peers.with_replay",
        ("CE", "CE+buckets", "LogInCE+buckets"),
        ("CESampled", "CESampled+buckets"),
    ),
}


class Limits(NamedTuple):
    """Limits of a process. One that exceeds a limit is stopped, and the reading says so."""

    gib: float
    seconds: float


@dataclass(frozen=True)
class Theirs:
    """The peer's SASRec with the sizes and settings of a request."""

    peer: Peer
    python: str
    request: Request
    limits: Limits
    methods: Sequence[Method] = ("train", "rank")

    def measure(self, method: Method, folder: Path) -> Reading:
        path = folder / "peer.json"
        replace(self.request, method=method).write(path)
        # -E -s: neither our PYTHONPATH nor the user's own packages
        command = [self.python, "-E", "-s", "-m", self.peer.module, str(path)]
        return measure_command(command, *self.limits, str(REPOSITORY), POLL_SECONDS)


@dataclass(frozen=True)
class Ours:
    """A model here, measured by the same request."""

    config: str
    overrides: Sequence[str]
    request: Request
    limits: Limits
    methods: Sequence[Method] = ("train", "rank")

    def measure(self, method: Method, folder: Path) -> Reading:
        paths = folder / "ours.json", folder / "experiment.json"
        replace(self.request, method=method).write(paths[0])
        experiment = {"config": self.config, "overrides": list(self.overrides)}
        paths[1].write_text(json.dumps(experiment))
        command = [sys.executable, "-m", "benchmarks.peers.ours", *map(str, paths)]
        return measure_command(command, *self.limits, None, POLL_SECONDS)


def overrides_of_both(config: str, overrides: Sequence[str], negatives: int) -> list[str]:
    """Return overrides that turn the experiment into SASRec with the peers' inner width, D."""
    dim = load_experiment(config, overrides).network.dim
    of_sasrec = sasrec_overrides(config, [*overrides, f"model.inner_dim={dim}"])
    loss = ['train.loss="sampled"', f"train.num_negatives={negatives}"] if negatives else []
    return [*of_sasrec, *loss]


def request_of(
    experiment: Experiment,
    split: Path,
    *,
    threads: int,
    seconds: float,
    rank_users: int,
    negatives: int,
) -> Request:
    """Return the request of a peer for the experiment, a SASRec."""
    model, train = experiment.model, experiment.train
    assert isinstance(model, SASRecConfig)
    return Request(
        method="train",
        split=str(split),
        dim=model.dim,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        dropout=model.dropout,
        max_length=model.max_length,
        lr=experiment.optim.lr,
        seed=experiment.seed,
        max_epochs=train.max_epochs,
        patience=train.patience,
        threads=threads,
        seconds=seconds,
        rank_users=rank_users,
        negatives=negatives,
        precision=train.precision,
    )
