"""The formulas of `benchmarks.sizes` give what a training sends, computes and holds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from counted_steps import (
    CPU,
    SAMPLED,
    SIZES,
    bytes_of_steps,
    made_experiment,
    write_made_tables,
)
from gloo import on_ranks
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.sizes import flops, traffic
from benchmarks.sizes.shape import Counts, Graphs, Shape
from training.data.batch import batch_of
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader
from training.data.sparse import product
from training.models.registry import build_model
from training.step import negatives_of, noise_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogues")
    write_made_tables(folder)
    return folder


@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_step_sends_as_many_bytes_of_each_kind_as_the_formula_says(folder, world_size):
    for found in on_ranks(world_size, bytes_of_steps, str(folder)):
        assert len(found) == 2 * len(SIZES)
        for name, step in found.items():
            items, loss = name.split()
            experiment = made_experiment(folder, int(items), {})
            shape = Shape.of(experiment, int(items), world_size, 20)
            expected = traffic.of_step(shape, Counts(*step["counts"]), loss == "full")
            sent = {kind: count for kind, count in step["sent"].items() if count}
            assert sent == {kind: count for kind, count in expected.items() if count}
            assert bool(sent) == (world_size > 1)


class Counted(NamedTuple):
    """Operations of one forward and backward, and the sizes that decide them."""

    products: int
    bags: int
    shape: Shape
    counts: Counts
    graphs: Graphs


def _bag_flops(weight: Any, indices: Any, *_: Any, **__: Any) -> int:
    return 2 * indices[0] * weight[1]


def _count_flops(folder: Path, items: int, train: dict[str, Any], **sizes: int) -> Counted:
    """Train MDSRec, whole in this process, on one step, while torch counts."""
    experiment = made_experiment(folder, items, {"batch_size": 100, **train}, **sizes)
    tables = load_item_tables(experiment)
    model = build_model(experiment, tables)
    model.initialize(0)
    step = next(SequenceReader(experiment).steps(0))
    noise = noise_of(model, experiment, step, (0, 0))
    negatives = negatives_of(model, experiment, step, (0, 0))
    batch = model.with_sparse_rows(batch_of(step, 0, 1, noise, CPU, negatives))
    bag = torch.ops.aten._embedding_bag, torch.ops.aten._embedding_bag_forward_only
    with FlopCounterMode(display=False, custom_mapping=dict.fromkeys(bag, _bag_flops)) as counter:
        (model.channel_weights @ model(batch)).backward()
    by_operator = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    bags = sum(by_operator.pop(str(operator), 0) for operator in bag)
    selected = [*batch.entries.values(), *(batch.scored_entries or {}).values()]
    near = len(batch.entries["near"].columns)
    own = len(batch.items) + (0 if batch.scored is None else len(batch.scored.items))
    counts = Counts(*batch.item_index.shape, *[0] * (len(Counts._fields) - 2))._replace(
        prefixes=len(batch.targets),
        items=len(batch.items),
        near_entries=near,
        scored=0 if batch.scored is None else len(batch.scored.items),
        list_entries=sum(len(entries.columns) for entries in selected) - near - own,
    )
    modalities = tables.modalities.values()
    centers = [product(m.membership, m.adjacency, items) for m in modalities]
    graphs = Graphs(
        neighbors=sum(len(m.adjacency.columns) for m in modalities),
        cooccurring=0,
        cooccurring_rows=0,
        centers=sum(len(rows.columns) for rows in centers),
    )
    shape = Shape.of(experiment, items, 1, 20)
    return Counted(sum(by_operator.values()), bags, shape, counts, graphs)


@pytest.mark.parametrize(("items", "dim"), [(100, 16), (230, 32), (500, 64)])
@pytest.mark.parametrize("loss", ["sampled", "full"])
def test_forward_and_backward_take_the_flops_of_the_formula(folder, items, dim, loss):
    counted = _count_flops(folder, items, SAMPLED if loss == "sampled" else {}, dim=dim)
    is_full = loss == "full"
    found = flops.of_step(counted.shape, counted.counts, counted.graphs, is_full, keeps_scores=True)
    of_bags = found.pop("sparse products")
    assert sum(found.values()) == pytest.approx(counted.products, rel=0.05)
    assert of_bags == pytest.approx(counted.bags, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("items", "workers"), [(200_000, 1), (400_000, 2), (800_000, 4)])
def test_a_rank_holds_as_many_bytes_as_the_formula_says(tmp_path, items, workers):
    sizes = {"items": items, "workers": workers, "rank": workers - 1, "steps": 2}
    options = [f"--{name}={value}" for name, value in {**sizes, "batch": 256 * workers}.items()]
    command = [sys.executable, "-m", "benchmarks.rehearsal", str(tmp_path), *options]
    subprocess.run(command, check=True)
    content = json.loads((tmp_path / "rehearsal-sampled.json").read_text())
    peak = max(phase["peak"] for phase in content["phases"].values())
    expected = content["before"] + max(content["expected_peaks"].values())
    assert expected == pytest.approx(peak, rel=0.1)
