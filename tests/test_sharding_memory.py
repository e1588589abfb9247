"""The peak memory of a rank grows with its share of the items, and not with all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks
from ring_dataset import ring_experiment, write_ring
from torch import distributed

from benchmarks.memory import process_bytes, trim_memory
from benchmarks.scale.processes import RESET_PEAK
from mdsrec.config.loading import experiment_from
from training.building import build_engine
from training.checkpoints.format import load_checkpoint, save_checkpoint
from training.data.long_rows import LongRows
from training.data.sequences import SequenceReader
from training.distributed.control import ControlGroup
from training.models.mdsrec.model import MDSRec
from training.sharding.own_rows import OwnGraph
from training.sharding.sums import OwnColumns
from training.step import share_of, take_step
from training.validation import validate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

SIZES, WORLD_SIZES = (200_000, 400_000, 800_000), (1, 2, 4)
D, CHANNELS = 64, 2
FLOAT = 4  # bytes
CPU = torch.device("cpu")


@contextmanager
def peak_of(phase: str, found: dict[str, int]) -> Iterator[None]:
    """Put the largest memory that this process has in a phase (VmHWM) into `found`."""
    trim_memory()
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    yield
    found[phase] = process_bytes("VmHWM")


def peaks(resolved: dict[str, Any], folder: str) -> dict[str, int]:
    """Load, take steps, save, restore, validate -> peak bytes of each; own items and graphs."""
    experiment, found = experiment_from(resolved, source="test"), dict[str, int]()
    with peak_of("load", found):
        engine, _ = build_engine(experiment, CPU, ControlGroup(5))
    model = engine.module
    assert isinstance(model, MDSRec) and model.owners is not None
    engine.train()
    reader = SequenceReader(experiment)
    with peak_of("steps", found):
        for number, step in zip(range(3), reader.steps(0), strict=False):
            take_step(engine, experiment, share_of(model, experiment, step, (0, number), CPU))
    with peak_of("save", found):
        save_checkpoint(engine, Path(folder), {})
    distributed.barrier()
    with peak_of("restore", found):
        load_checkpoint(engine, folder)
    reader.num_users = 64
    with peak_of("validation", found):
        validate(engine, experiment, reader, CPU)
    return {**found, "own": model.owners.shards.num_own, "graphs": graph_bytes(model)}


def graph_bytes(model: MDSRec) -> int:
    """Return the bytes of N(O), Ahat and C Ahat, the last one by row and by column."""
    assert isinstance(model.items.cooccurrence, OwnColumns)
    total = model.items.cooccurrence.nbytes
    for part in model.modules():
        if isinstance(part, OwnGraph):
            total += part.nbytes
        if isinstance(part, LongRows):
            by_column = part.__dict__.get("_transposed")
            total += part.nbytes + (0 if by_column is None else by_column.nbytes)
    return total


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """Measure every size on every number of ranks, one at a time -> the largest rank of each."""
    root, found = tmp_path_factory.mktemp("root"), []
    for num_items in SIZES:
        train = {"item_table": "sharded", "batch_size": 64, "max_epochs": 1}
        experiment = ring_experiment(root, num_items, train=train)
        write_ring(experiment, num_items)
        for world_size in WORLD_SIZES:
            folder = root / f"{num_items}-{world_size}"
            folder.mkdir()
            ranks = on_ranks(world_size, peaks, experiment.resolved(), str(folder))
            largest = {key: max(rank[key] for rank in ranks) for key in ranks[0]}
            found.append({**largest, "all": num_items})
            print(num_items, world_size, largest)
    return found


def bytes_per_own_item(measured: list[dict[str, float]], phase: str) -> float:
    """Return b of peak = a + b own items, by least squares over all sizes and numbers of ranks."""
    own = np.array([m["own"] for m in measured])
    b, a = np.polyfit(own, np.array([m[phase] for m in measured]), 1)
    print(f"{phase}: {a / 2**20:.0f} MiB + {b:.0f} own")
    return float(b)


@pytest.mark.parametrize("phase", ["steps", "save", "restore"])
def test_an_own_item_takes_four_tables_and_its_graphs(
    measured: list[dict[str, float]], phase: str
) -> None:
    graphs = measured[-1]["graphs"] / measured[-1]["own"]
    assert bytes_per_own_item(measured, phase) == pytest.approx(16 * D + graphs, rel=0.1)


def test_a_validation_takes_the_vectors_of_own_items_beside_that(
    measured: list[dict[str, float]],
) -> None:
    graphs = measured[-1]["graphs"] / measured[-1]["own"]
    expected = 16 * D + graphs + CHANNELS * FLOAT * D
    assert bytes_per_own_item(measured, "validation") == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("phase", ["steps", "save", "restore", "validation"])
def test_equal_shares_of_small_and_large_catalogues_take_the_same_memory(
    measured: list[dict[str, float]], phase: str
) -> None:
    """A fourth of 800,000 items, a half of 400,000, and all of 200,000."""
    peaks = [m[phase] for m in measured if round(m["own"], -4) == SIZES[0]]
    assert len(peaks) == 3 and max(peaks) < 1.1 * min(peaks)
