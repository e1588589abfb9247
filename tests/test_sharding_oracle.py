"""Two ranks that own items train MDSRec as the oracle does, which is dense and in plain torch."""

from pathlib import Path
from typing import Any

import numpy as np
import oracle as plain
import pyarrow as pa
import pytest
import torch
from gloo import on_ranks
from mdsrec_world import oracle_name
from sharded_steps import Job, joined, trained
from small_dataset import NUM_ITEMS, small_experiment, write_dataset
from small_models import experiment_of
from torch import Tensor

from mdsrec import schema, tables
from mdsrec.config import Experiment, MDSRecConfig
from mdsrec.table_names import centers_name
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader
from training.data.sparse import SparseMatrix
from training.data.windows import Step
from training.models.base import Model
from training.models.registry import build_model
from training.step import noise_of

LONG = 16  # events of a sequence; none in the data set has more, so no window is cut
SIZES = {"text": [32, 4, 4], "image": [32, 2, 1]}
"""Items of each center. 1 / 32 and so on are exact in float32, as the tables hold them."""
CASES: dict[str, dict[str, Any]] = {
    "inner products": {},
    "cosines": {"temperature": 0.1},
    "no centers": {"interest_centers": False},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    experiment = small_experiment(root)
    write_dataset(experiment)
    for modality, sizes in SIZES.items():
        uri = tables.table_uri(str(root), centers_name(experiment, modality))
        written = tables.open_table(uri)
        items = np.arange(NUM_ITEMS)[-written.rows :]
        columns = items, np.repeat(np.arange(len(sizes)), sizes)
        batch = pa.record_batch([pa.array(c, pa.int32()) for c in columns], schema.CENTERS)
        recipe = tables.Recipe(written.settings, written.inputs)
        tables.write_table(uri, [batch], schema.CENTERS, recipe)
    return root


def dense(matrix: Any, num_columns: int = NUM_ITEMS) -> Tensor:
    """Return a matrix of the tables in float64."""
    assert isinstance(matrix, SparseMatrix)
    found = torch.zeros(matrix.num_rows, num_columns, dtype=torch.float64)
    rows = np.repeat(np.arange(matrix.num_rows), np.diff(matrix.starts))
    found[rows, matrix.columns] = torch.from_numpy(matrix.weights).double()
    return found


def experiment_with(root: Path, model: dict[str, Any], **sections: Any) -> Experiment:
    return experiment_of(root, "mdsrec", model={"max_length": LONG, **model}, **sections)


class PlainTraining:
    """The oracle at the initial weights of a model, trained by Adam of torch."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, config = experiment, experiment.model
        assert isinstance(config, MDSRecConfig)
        item_tables = load_item_tables(experiment)
        self.model: Model = build_model(experiment, item_tables).double()
        self.model.initialize(experiment.seed)
        self.weights = {
            n: p.detach().clone().requires_grad_() for n, p in self.model.named_parameters()
        }
        modalities = item_tables.modalities
        self.oracle = plain.Oracle(
            {oracle_name(name): weight for name, weight in self.weights.items()},
            config,
            {m: config.rho_of(m, len(modalities)) for m in modalities},
            dense(item_tables.cooccurrence),
            {m: dense(t.adjacency) for m, t in modalities.items()},
            {m: dense(t.membership) for m, t in modalities.items() if t.membership is not None},
            {},
        )
        self.adam = torch.optim.Adam(self.weights.values(), lr=experiment.optim.lr)

    def take_steps(self, num_steps: int) -> dict[str, Tensor]:
        """Return the losses, then the weights and Adam's moments by name."""
        losses: list[Tensor] = []
        for epoch in range(num_steps):
            for number, step in enumerate(SequenceReader(self.experiment).steps(epoch)):
                if len(losses) < num_steps:
                    losses.append(self.take_step(step, (epoch, number)))
        found = {"losses": torch.stack(losses)}
        for name, weight in self.weights.items():
            found[f"{name} weight"] = weight.detach().flatten()
            for kind in ("exp_avg", "exp_avg_sq"):
                found[f"{name} {kind}"] = self.adam.state[weight][kind].flatten()
        return found

    def take_step(self, step: Step, epoch_and_step: tuple[int, int]) -> Tensor:
        samples = step.samples
        assert not samples.first_counted.any()
        noise = iter(noise_of(self.model, self.experiment, step, epoch_and_step).double())
        names = self.experiment.modalities
        sequences, noises = [], []
        for start, stop in zip(samples.starts, samples.stops, strict=True):
            sequences.append(samples.events[start : stop + 1].tolist())
            noises.append([dict(zip(names, next(noise), strict=True)) for _ in range(stop - start)])
        loss = self.oracle.loss(sequences, noises)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return loss.detach()


def train_all(jobs: list[Job]) -> list[dict[str, Tensor]]:
    return [trained(job) for job in jobs]


def assert_oracle(found: list[dict[str, Tensor]], experiment: Experiment, num_steps: int) -> None:
    """Assert that losses, weights and moments on all ranks are those of the oracle."""
    ranks, expected = joined(found), PlainTraining(experiment).take_steps(num_steps)
    weights = torch.tensor([*experiment.model.channel_weights(experiment.modalities).values()])
    ranks = {**ranks, "losses": ranks["losses"] @ weights.double()}
    assert ranks.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            ranks[name], value, atol=1e-9, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_losses_and_gradients_of_two_ranks_are_those_of_the_oracle(root: Path) -> None:
    """Adam's first moment after the first step is the gradient over ten."""
    experiments = [experiment_with(root, model) for model in CASES.values()]
    jobs = [Job(experiment.resolved(), num_steps=1) for experiment in experiments]
    two_ranks = on_ranks(2, train_all, jobs)
    for experiment, *found in zip(experiments, *two_ranks, strict=True):
        assert joined(found)["item_embedding exp_avg"].norm() > 1e-3
        assert_oracle(found, experiment, 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_twenty_steps_are_those_of_the_oracle(root: Path, world_size: int) -> None:
    experiments = [experiment_with(root, model) for model in CASES.values()]
    experiments.append(experiment_with(root, {}, train={"accumulation": 3}))
    all_negatives = {"loss": "sampled", "num_negatives": NUM_ITEMS}  # then it is the full loss
    experiments.append(experiment_with(root, {}, train=all_negatives))
    ranks = on_ranks(world_size, train_all, [Job(e.resolved()) for e in experiments])
    for experiment, *found in zip(experiments, *ranks, strict=True):
        assert_oracle(found, experiment, 20)
