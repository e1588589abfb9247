"""SASRec here beside that of RecTools or RePlay: speed of training and of lists, memory, metrics.

The peer runs in an environment of its own, which `make peers` makes. Both get the same split, sizes
and threads. First the peer's fastest form and number of sequences a step are found, by one reading
each. Then readings are taken in turns, each in a new process, and the median counts. Where the CPU
has bfloat16 the models here are trained in it too. With --seeds
both are trained until validation ndcg@10 has not improved for `train.patience` epochs.
"""

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure import DONE
from benchmarks.peers.plan import PEERS, Limits, Ours, Theirs, overrides_of_both, request_of
from benchmarks.peers.split import write_split
from benchmarks.peers.turns import Contestant, described, in_turns, speed_table
from benchmarks.recbole.metrics import metrics_here, print_tables, runs_of
from benchmarks.training.workers import CPU
from mdsrec.command import add_experiment, positive_int
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from training.device import has_bf16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--peer", required=True, choices=PEERS)
    parser.add_argument("--python", required=True, help="the interpreter of the peer's environment")
    parser.add_argument("--threads", type=positive_int, default=2, help="of torch (default: 2)")
    parser.add_argument("--readings", type=int, default=5, help="of each (default: 5; 0: none)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of training a reading (20)")
    parser.add_argument(
        "--batches",
        type=positive_int,
        nargs="+",
        default=[128, 512],
        help="sequences of a step of the peer to try (default: 128 512)",
    )
    parser.add_argument(
        "--rank-users", type=positive_int, default=10_000, help="lists a reading (default: 10000)"
    )
    parser.add_argument(
        "--negatives", type=int, default=0, help="a sampled softmax (default: 0, over all items)"
    )
    parser.add_argument("--gib", type=float, default=16.0, help="most memory of a process (16)")
    parser.add_argument("--minutes", type=float, default=15.0, help="most time of a reading (15)")
    parser.add_argument("--seeds", type=int, default=0, help="trained runs of each (default: 0)")


def run(arguments: argparse.Namespace) -> None:
    config, given = arguments.config, arguments.overrides
    overrides = overrides_of_both(config, given, arguments.negatives)
    sasrec, whole = load_experiment(config, overrides), load_experiment(config, given)
    peer, limits = PEERS[arguments.peer], Limits(arguments.gib, arguments.minutes * 60)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_split(sasrec, folder / "split.npz")
        request = request_of(
            sasrec,
            folder / "split.npz",
            threads=arguments.threads,
            seconds=arguments.seconds,
            rank_users=arguments.rank_users,
            negatives=arguments.negatives,
        )
        theirs = Theirs(peer, interpreter(arguments.python), request, limits)
        theirs = fastest(theirs, folder, arguments.batches)
        contestants: dict[str, Contestant] = {
            "SASRec here": Ours(config, overrides, request, limits),
            f"{peer.name}'s SASRec": theirs,
        }
        has_whole = whole.model.name != "sasrec" and not arguments.negatives
        models = {f"{whole.model.name} here": given} if has_whole else {}
        in_bf16 = sasrec.train.precision == "fp32" and has_bf16(CPU)
        for name, keys in only_trained(overrides, models, in_bf16).items():
            contestants[name] = Ours(config, keys, request, limits, ("train",))
        if arguments.readings:
            found = in_turns(contestants, folder, arguments.readings)
            print(speed_table(found, f"{peer.name}'s SASRec"), flush=True)
        if arguments.seeds:
            runs = list(runs_of(config, overrides, arguments.seeds))
            ours = metrics_here(runs)
            print_tables(ours, list(_metrics_of_peer(theirs, folder, arguments.seeds)), peer.name)


def only_trained(
    sasrec: Sequence[str], models: Mapping[str, Sequence[str]], in_bf16: bool
) -> dict[str, Sequence[str]]:
    """Return the overrides of the runs here that make no lists: models, and all in bfloat16."""
    all_here = {"SASRec here": sasrec, **models} if in_bf16 else {}
    of_bf16 = {f"{n}, bf16": [*keys, "train.precision=bf16"] for n, keys in all_here.items()}
    return {**models, **of_bf16}


def interpreter(name: str) -> str:
    """Return the absolute path of a program. InputError if there is none."""
    path = shutil.which(name)
    if path is None:
        raise InputError(f"--python {name}: no such program: `make peers` makes the environments")
    return str(Path(path).absolute())


def fastest(theirs: Theirs, folder: Path, batches: list[int]) -> Theirs:
    """Return the peer with the form and batch that train fastest, by one reading each.

    Rates in a CPU second are compared. The first ones if none gives a result.
    """
    requests = [
        replace(theirs.request, form=form, batch_users=batch)
        for form in theirs.peer.forms(theirs.request.negatives)
        for batch in batches
    ]
    tried = [replace(theirs, request=request) for request in requests]
    if len(tried) == 1:
        return tried[0]
    rates = []
    for each, request in zip(tried, requests, strict=True):
        reading = each.measure("train", folder)
        rates.append(reading.result.get("cpu_rate", 0.0))
        steps = f"{request.form}, {request.batch_users} sequences a step"
        print(described(f"{theirs.peer.name}, {steps}", reading), flush=True)
    return tried[rates.index(max(rates))]


def _metrics_of_peer(theirs: Theirs, folder: Path, seeds: int) -> Iterator[Any]:
    no_limit = theirs.limits._replace(seconds=math.inf)
    for seed in range(seeds):
        tried = replace(theirs, request=replace(theirs.request, seed=seed), limits=no_limit)
        reading = tried.measure("fit", folder)
        if reading.outcome != DONE:
            raise InputError(f"{theirs.peer.name}, seed {seed}: {reading.outcome}")
        epochs = reading.result["epochs"]
        line = f"{theirs.peer.name}, seed {seed}: {epochs} epochs in {reading.seconds:,.0f} s"
        print(line, file=sys.stderr, flush=True)
        yield reading.result
