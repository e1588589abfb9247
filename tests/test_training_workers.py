"""MDSRec trained by DeepSpeed on two, then three, then one worker has, step by step, the losses of
plain PyTorch in one process.
"""

from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import on_ranks
from small_dataset import small_experiment, write_dataset
from torch import Tensor

from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from training.checkpoints.format import load_checkpoint, save_checkpoint
from training.data.batch import batch_of
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader
from training.data.windows import Step
from training.distributed import engine as ds
from training.models.mdsrec.model import MDSRec
from training.step import noise_of, share_of, take_step

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
BOUNDS = (0, 17, 34, 50)  # steps at which the number of workers changes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


def steps_of(experiment: Experiment, first: int, last: int) -> list[tuple[Step, tuple[int, int]]]:
    """Return steps [first, last) of a training, each with its epoch and its number there."""
    reader = SequenceReader(experiment)
    all_steps = (
        (step, (epoch, number))
        for epoch in count()
        for number, step in enumerate(reader.steps(epoch))
    )
    return list(islice(all_steps, first, last))


def model_of(experiment: Experiment) -> MDSRec:
    model = MDSRec(experiment, load_item_tables(experiment))
    model.initialize(experiment.seed)
    return model


def plain_losses(experiment: Experiment) -> Tensor:
    """Return the loss of each channel in each step [steps, C]."""
    model, losses = model_of(experiment), []
    optimizer = torch.optim.Adam(model.parameters(), lr=experiment.optim.lr)
    for step, at in steps_of(experiment, BOUNDS[0], BOUNDS[-1]):
        of_channels = model(batch_of(step, 0, 1, noise_of(model, experiment, step, at), CPU))
        optimizer.zero_grad()
        (model.channel_weights @ of_channels / step.num_prefixes).backward()
        optimizer.step()
        losses.append(of_channels.detach() / step.num_prefixes)
    return torch.stack(losses)


def losses_of_steps(resolved: dict[str, Any], first: int, last: int, folder: str) -> Tensor:
    """Take steps [first, last) from a checkpoint to the next; return this rank's part of the losses
    [steps, C].
    """
    experiment = experiment_from(resolved, source="test")
    engine = ds.initialize(model_of(experiment), experiment, CPU)
    if first:
        load_checkpoint(engine, f"{folder}/{first}")
    engine.train()
    losses = []
    for step, at in steps_of(experiment, first, last):
        loss = take_step(engine, experiment, share_of(engine.module, experiment, step, at, CPU))
        losses.append(loss / step.num_prefixes)
    target = Path(folder) / str(last)
    target.mkdir(exist_ok=True)
    save_checkpoint(engine, target, {})
    return torch.stack(losses)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_two_then_three_then_one_workers_have_the_losses_of_plain_torch(
    root: Path, tmp_path: Path, stage: int, temperature: float
) -> None:
    experiment = small_experiment(
        root, train={"zero_stage": stage, "batch_size": 24}, model={"temperature": temperature}
    )
    found = []
    for workers, first, last in zip((2, 3, 1), BOUNDS, BOUNDS[1:], strict=False):
        parts = on_ranks(
            workers, losses_of_steps, experiment.resolved(), first, last, str(tmp_path)
        )
        assert workers == 1 or not torch.allclose(parts[0], parts[1])  # ranks hold other users
        found.append(sum(parts))
    torch.testing.assert_close(torch.cat(found), plain_losses(experiment), atol=1e-4, rtol=0)
