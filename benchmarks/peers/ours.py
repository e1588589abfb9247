"""SASRec here, measured as the peers are: `python -m benchmarks.peers.ours REQUEST EXPERIMENT`

EXPERIMENT is a JSON file with the configuration and its overrides.
"""

import json
import sys
import tempfile
from itertools import count
from pathlib import Path

import pandas as pd
import torch

from benchmarks.measure import print_result
from benchmarks.peers.pace import Pace, Timer, peak_bytes
from benchmarks.peers.request import TOP, Request
from benchmarks.training.workers import CPU, start_engine
from evaluation.serving.lists import BestItems, best_items
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader, Target
from training.inference import TrainedModel, trained_model
from training.models.registry import build_model
from training.step import share_of, take_step


def main(request: Request, experiment: Experiment) -> None:
    torch.set_num_threads(request.threads)
    method = {"train": train, "rank": rank}[request.method]
    print_result(**method(request, experiment), peak=peak_bytes())


def train(request: Request, experiment: Experiment) -> dict[str, float]:
    """Return the prefixes per second of training, with the reading of the data."""
    with tempfile.TemporaryDirectory() as folder:
        engine = start_engine(0, 1, folder, experiment, request.threads)
        engine.train()
        reader, pace = SequenceReader(experiment), Pace(request.seconds)
        for epoch in count():
            for number, step in enumerate(reader.steps(epoch)):
                share = share_of(engine.module, experiment, step, (epoch, number), CPU)
                take_step(engine, experiment, share)
                if pace.add(step.num_prefixes):
                    return pace.rates
    raise AssertionError


def rank(request: Request, experiment: Experiment) -> dict[str, float]:
    """Return the users per second of lists, with weights that are not trained."""
    item_tables = load_item_tables(experiment)
    model = build_model(experiment, item_tables)
    model.initialize(request.seed)
    trained = trained_model(model.eval(), None, item_tables)
    reader = SequenceReader(experiment)
    targets = reader.targets(0, reader.num_users, "valid")[: request.rank_users]
    size = experiment.eval.users_together
    lists(trained, targets[:size], experiment)
    timer = Timer()
    lists(trained, targets, experiment)
    return timer.rates(len(targets))


@torch.no_grad()
def lists(trained: TrainedModel, targets: list[Target], experiment: Experiment) -> pd.DataFrame:
    """Return the TOP items of each user: user, item, score, best first."""
    size, block = experiment.eval.users_together, experiment.eval.items_together
    frames = []
    for first in range(0, len(targets), size):
        batch = targets[first : first + size]
        best = best_items(trained, [t.history for t in batch], TOP, False, block)
        frames.append(_frame([t.user for t in batch], best))
    return pd.concat(frames, ignore_index=True)


def _frame(users: list[int], best: BestItems) -> pd.DataFrame:
    frame = {"item": best.items.ravel(), "score": best.scores.ravel()}
    return pd.DataFrame({"user": pd.Series(users).repeat(TOP).array, **frame})


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[2]).read_text())
    main(Request.read(Path(sys.argv[1])), load_experiment(given["config"], given["overrides"]))
