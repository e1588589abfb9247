"""Every model on a pretended GPU: one device, nothing that waits inside a step, few launches."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, random_array
from small_dataset import small_experiment, write_dataset
from small_models import experiment_of

from benchmarks.gpu_harness import stages
from benchmarks.gpu_harness.device import pretended_gpu
from benchmarks.gpu_harness.kernels import has_kernel
from benchmarks.gpu_harness.stages import Taken
from benchmarks.gpu_harness.tensor import CUDA, MixedDevicesError, PretendTensor, counted
from evaluation.ranking import seen_pairs
from evaluation.serving.lists import best_items
from mdsrec.config import Experiment
from training import step as training_step
from training.data import device_matrices, long_rows
from training.data.item_tables import load_item_tables
from training.data.long_rows import LongRows
from training.data.sequences import SequenceReader
from training.data.sparse import SparseMatrix
from training.device import product_precision
from training.inference import ALL, SEEN, trained_model
from training.layers.dropout import dropout, dropout_mask
from training.layers.queries import Queries
from training.layers.scoring import count_channels
from training.losses import softmax_tiles
from training.memory import Memory
from training.models.next_item import NextItem
from training.sharding.adam import adam_of_all

LAUNCHES = {  # most of a step under the full loss in fp32, forward and backward
    "mdsrec": 325,
    "sasrec": 114,
    "bert4rec": 138,
    "gru4rec": 355,  # a GPU has one kernel for what the CPU does event by event
    "gru4recf": 377,
    "sasrecf": 136,
    "fdsa": 240,
    "unisrec": 248,
    "mmmlp": 352,
    "missrec": 309,
}
LOSSES = {"full": {}, "sampled": {"loss": "sampled", "num_negatives": 20}}
EVAL = {"user_batch": 64, "item_block": 64}


class Form(NamedTuple):
    """A form of a step."""

    loss: str
    precision: str
    sharded: bool


EVERY_FORM = [
    Form(loss, precision, sharded)
    for loss in LOSSES
    for precision in ("fp32", "bf16")
    for sharded in (False, True)
]
SOME_FORMS = [Form("full", "fp32", False), Form("sampled", "bf16", True)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("gpu")
    write_dataset(small_experiment(root))
    with stages.one_rank(str(root / "rendezvous")):
        yield root


def experiment_in(root: Path, name: str, form: Form, **sections: Any) -> Experiment:
    train = {**LOSSES[form.loss], "precision": form.precision}
    model = {"dim": 16, **sections.pop("model", {})}  # heads of 8, which need no padding
    return experiment_of(root, name, train=train, eval=EVAL, model=model, **sections)


def taken(experiment: Experiment, sharded: bool = False) -> tuple[Taken, Taken]:
    """Take the first step on the CPU and on the pretended GPU."""
    step, new_model = stages.first_step(experiment), partial(stages.new_model, experiment, sharded)
    on_cpu = stages.step_on_cpu(new_model(), experiment, step)
    return on_cpu, stages.step_on_gpu(new_model(), experiment, step)


def assert_equal_steps(on_cpu: Taken, found: Taken, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found.losses, on_cpu.losses, rtol=tolerance, atol=0)
    assert found.gradients.keys() == on_cpu.gradients.keys()
    for name, gradient in on_cpu.gradients.items():
        most = tolerance * gradient.abs().max().item() + 1e-7
        torch.testing.assert_close(found.gradients[name], gradient, rtol=0, atol=most, msg=name)


def assert_nothing_waits(found: Taken) -> None:
    for part, counts in found.counts_of.items():
        assert not counts.waits, (part, counts.waits)
        assert not counts.missing, (part, counts.missing)
        assert not counts.num_pageable, (part, counts.copies)


def num_launches(found: Taken) -> int:
    parts = found.counts_of
    return parts["forward"].launches.total() + parts["backward"].launches.total()


def check_step(root: Path, name: str, form: Form) -> None:
    on_cpu, found = taken(experiment_in(root, name, form), form.sharded)
    assert_equal_steps(on_cpu, found, 1e-5 if form.precision == "fp32" else 2e-2)
    assert_nothing_waits(found)
    if form == SOME_FORMS[0]:
        assert num_launches(found) <= LAUNCHES[name], found.counts_of


@pytest.mark.parametrize("form", SOME_FORMS, ids=str)
@pytest.mark.parametrize("name", LAUNCHES)
def test_a_step_keeps_to_one_device_and_never_waits(root: Path, name: str, form: Form) -> None:
    check_step(root, name, form)


@pytest.mark.slow
@pytest.mark.parametrize("form", [form for form in EVERY_FORM if form not in SOME_FORMS])
@pytest.mark.parametrize("name", LAUNCHES)
def test_every_form_of_a_step_keeps_to_one_device(root: Path, name: str, form: Form) -> None:
    check_step(root, name, form)


@pytest.mark.parametrize(
    "train",
    [
        {"accumulation": 2},
        {"untrained_items": "excluded"},
        {"loss": "sampled", "negatives": "in_batch"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["mdsrec", "sasrec"])
def test_settings_of_a_step_keep_to_one_device(root: Path, name: str, train: Any) -> None:
    on_cpu, found = taken(experiment_of(root, name, train=train, model={"dim": 16}))
    assert_equal_steps(on_cpu, found)
    assert_nothing_waits(found)


@pytest.mark.parametrize(
    "model",
    [
        {"num_layers": 3, "temperature": 0.1},
        {"num_layers": 1, "num_heads": 1, "max_length": 3},
        {"interest_centers": False},
        {"item_graph": False},
        {"num_heads": 8},  # the centers are projected, so the channels follow each other
    ],
    ids=str,
)
def test_channels_side_by_side_equal_one_after_the_other(root: Path, model: Any) -> None:
    on_cpu, found = taken(experiment_in(root, "mdsrec", SOME_FORMS[0], model=model))
    assert_equal_steps(on_cpu, found)
    assert_nothing_waits(found)


def test_scores_that_are_not_kept_are_computed_in_tiles(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk begins at a block, for which the graph's rows are ordered by column."""
    monkeypatch.setattr(softmax_tiles, "BLOCK", 16)
    monkeypatch.setattr(softmax_tiles, "GPU_TILE_BYTES", 4 * 16 * 5)  # of 5 prefixes
    experiment = experiment_in(root, "mdsrec", SOME_FORMS[0])
    _, whole = taken(experiment)
    assert num_launches(whole) <= LAUNCHES["mdsrec"]
    monkeypatch.setattr(device_matrices, "BLOCK", 16)
    monkeypatch.setattr(softmax_tiles, "GPU_SAVED_BYTES", 0)
    on_cpu, found = taken(experiment)
    assert_equal_steps(on_cpu, found)
    assert num_launches(found) > num_launches(whole)


def test_long_rows_on_a_gpu_equal_those_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.rand(3, 20, generator=generator).masked_fill_(torch.arange(20) % 4 == 1, 0)
    table, of_rows = torch.rand(20, 4, generator=generator), torch.rand(3, 4, generator=generator)
    by_row = csr_array(left.numpy())
    matrix = SparseMatrix(by_row.indptr.astype(np.int64), by_row.indices, by_row.data)
    monkeypatch.setattr(long_rows, "working_set", lambda _: 6 * table[0].nbytes)  # of the table
    monkeypatch.setattr(device_matrices, "BAG", 4)
    with pretended_gpu():
        rows, added = LongRows(matrix, 20).to(CUDA), torch.ones(20, 4).to(CUDA)
        found = rows.times(table.to(CUDA))
        rows.add_transposed(added, of_rows.to(CUDA), 20)
    torch.testing.assert_close(stages.host_value(found), left @ table)
    torch.testing.assert_close(stages.host_value(added), 1 + left.T @ of_rows)


@pytest.mark.parametrize(
    ("precision", "on_gpu"), [("fp32", "highest"), ("tf32", "high"), ("bf16", "high")]
)
def test_only_a_step_on_a_gpu_multiplies_in_tensorfloat(
    root: Path, precision: str, on_gpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranking does not, even where the process allows it."""
    found: list[str] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*inputs: Any, **options: Any) -> Any:
            found.append(torch.get_float32_matmul_precision())
            return function(*inputs, **options)

        return noted

    experiment = experiment_in(root, "sasrec", Form("full", precision, False))
    step, targets = stages.first_step(experiment), SequenceReader(experiment).targets(0, 5)
    new_model = partial(stages.new_model, experiment)
    monkeypatch.setattr(NextItem, "loss", noting(NextItem.loss))
    stages.step_on_gpu(new_model(), experiment, step)
    stages.step_on_cpu(new_model(), experiment, step)
    assert found == [on_gpu, "highest"]
    found.clear()
    kind = type(new_model())
    monkeypatch.setattr(kind, "user_vectors", noting(kind.user_vectors))
    monkeypatch.setattr(torch, "bmm", noting(torch.bmm))
    with product_precision("tf32"):
        stages.validate_on_gpu(new_model(), experiment)
        stages.rank_on_gpu(new_model(), experiment, targets)
    assert found and set(found) == {"highest"}


def test_a_gpu_steps_rows_with_and_without_a_gradient_as_the_cpu_does() -> None:
    generator = torch.Generator().manual_seed(0)
    weights, first, second = torch.rand(3, 7, 2, generator=generator).unbind()
    ids, gradient = torch.tensor([1, 4, 5]), torch.rand(3, 2, generator=generator)
    state = weights.clone(), first.clone(), second.clone()
    adam_of_all(state, ids, gradient, torch.zeros(3, 2), rate=0.1, steps=2)
    with pretended_gpu():
        on_gpu = weights.to(CUDA), first.to(CUDA), second.to(CUDA)
        zeros, counts = torch.zeros(3, 2).to(CUDA), counted()
        adam_of_all(on_gpu, ids.to(CUDA), gradient.to(CUDA), zeros, rate=0.1, steps=2)
        assert not counts.waits
    for found, expected in zip(on_gpu, state, strict=True):
        torch.testing.assert_close(stages.host_value(found), expected)


def test_dropout_of_a_gpu_zeroes_its_share_and_keeps_the_mean() -> None:
    ones = torch.ones(400, 100)
    with pretended_gpu():
        on_gpu = ones.to(CUDA)
        of_values = dropout(on_gpu, 0.3, training=True)
        found = [of_values, dropout_mask((400, 100), 0.3, on_gpu)]
        assert torch.equal(stages.host_value(dropout(on_gpu, 0.3, training=False)), ones)
    for values in map(stages.host_value, found):
        assert (values == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
        assert values.mean().item() == pytest.approx(1, abs=0.02)


def test_dropout_and_hidden_items_do_not_wait(root: Path) -> None:
    model = {"dropout": 0.3, "item_mask": 0.2}
    _, found = taken(experiment_in(root, "mdsrec", SOME_FORMS[0], model=model))
    assert_nothing_waits(found)
    assert all(gradient.isfinite().all() for gradient in found.gradients.values())


def test_heads_of_any_width_are_padded_for_a_gpu(root: Path) -> None:
    on_cpu, found = taken(experiment_in(root, "sasrec", SOME_FORMS[0], model={"dim": 10}))
    assert found.counts_of["forward"].launches["constant_pad_nd"] == 6  # of two layers
    assert_equal_steps(on_cpu, found)


@pytest.mark.parametrize("name", LAUNCHES)
def test_ranks_and_best_items_equal_those_of_the_cpu(root: Path, name: str) -> None:
    experiment = experiment_in(root, name, SOME_FORMS[0])
    targets = SequenceReader(experiment).targets(0, 20)
    on_cpu = stages.rank_on_cpu(stages.new_model(experiment), experiment, targets)
    found = stages.rank_on_gpu(stages.new_model(experiment), experiment, targets)
    for one, other in zip(found[:3], on_cpu[:3], strict=True):
        assert torch.equal(one, other)
    assert not any(counts.missing for counts in found.counts_of.values())
    for part in ("item vectors", "user vectors"):
        assert not found.counts_of[part].waits, found.counts_of[part].waits


def ranked_with_memory(experiment: Experiment, device: torch.device) -> list[Any]:
    """Return the ranks in the whole score and in each channel, and the lists of best items."""
    model = stages.new_model(experiment).eval().to(device)
    item_tables = load_item_tables(experiment)
    of_pairs = random_array((item_tables.num_items,) * 2, density=0.3, format="csr", rng=0)
    parts = of_pairs.indptr.astype(np.int64), of_pairs.indices, of_pairs.data.astype(np.float32)
    memory = Memory(SparseMatrix(*parts), experiment.transitions, "")
    trained = trained_model(model, memory, item_tables)
    trained = replace(trained, weight_of={**trained.weight_of, SEEN: -0.25})
    targets = SequenceReader(experiment).targets(0, 20)
    histories = [target.history for target in targets]
    ranking, block = trained.ranking(histories), experiment.eval.items_together
    of_targets = torch.tensor([target.target for target in targets])
    seen = torch.from_numpy(seen_pairs(histories))
    counted_items = ranking.count(trained.sums[ALL][None], of_targets, block, seen)
    lists = best_items(trained, histories, 5, exclude_seen=True, item_block=block)
    return [*(stages.host_value(counts).tolist() for counts in counted_items), lists.items.tolist()]


def test_a_memory_is_ranked_on_a_gpu_as_on_the_cpu(root: Path) -> None:
    experiment = experiment_in(root, "mdsrec", SOME_FORMS[0], model={"memory": True})
    on_cpu = ranked_with_memory(experiment, stages.HOST)
    with pretended_gpu():
        counts = counted()
        assert ranked_with_memory(experiment, CUDA) == on_cpu
    assert not counts.missing, counts.missing


@pytest.mark.parametrize("num_targets", [0, 1, 64, 150])
def test_targets_are_scored_in_products_of_the_shape_of_a_tile(
    num_targets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU chooses a kernel by the shape, so their scores have the bits of those in the tiles."""
    shapes, multiply = [], torch.bmm

    def noted(one: torch.Tensor, other: torch.Tensor, **options: Any) -> torch.Tensor:
        shapes.append((one.shape, other.shape))
        return multiply(one, other, **options)

    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(num_targets, 2, 8, generator=generator)
    items = torch.randn(2, 200, 8, generator=generator)
    targets = torch.randint(200, (num_targets,), generator=generator)
    on_cpu = count_channels(Queries(vectors, items), torch.ones(1, 2), targets, 64)
    monkeypatch.setattr(torch, "bmm", noted)
    with pretended_gpu():
        queries = Queries(vectors.to(CUDA), items.to(CUDA))
        found = count_channels(queries, torch.ones(1, 2), targets.to(CUDA), 64)
        assert all(torch.equal(one.cpu(), other) for one, other in zip(found, on_cpu, strict=True))
    tiles, of_targets = 4, max(1, -(-num_targets // 64))
    assert len(shapes) == tiles + of_targets and len(set(shapes)) == 1


@pytest.mark.parametrize("name", ["mdsrec", "sasrec"])
@pytest.mark.parametrize("sharded", [False, True])
def test_validation_equals_that_of_the_cpu(root: Path, name: str, sharded: bool) -> None:
    experiment = experiment_in(root, name, SOME_FORMS[0])
    on_cpu = stages.validate_on_cpu(stages.new_model(experiment, sharded), experiment)
    found, counts = stages.validate_on_gpu(stages.new_model(experiment, sharded), experiment)
    assert found == on_cpu == stages.validate_on_cpu(stages.new_model(experiment), experiment)
    assert not counts.missing


def test_a_batch_that_is_not_moved_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_step, "tree_map_only", lambda kind, move, batch: batch)
    with pytest.raises(MixedDevicesError, match=r"on cuda:0, .* on the host"):
        taken(experiment_in(root, "sasrec", SOME_FORMS[0]))


def test_rows_that_are_not_prepared_ahead_are_found(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = experiment_in(root, "mdsrec", SOME_FORMS[0])
    step, model = stages.first_step(experiment), stages.new_model(experiment)
    prepare, with_rows = training_step.share_of, type(model).with_sparse_rows

    def prepare_without_rows(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(type(model), "with_sparse_rows", lambda _, batch: batch)
            return prepare(*arguments)

    monkeypatch.setattr(stages, "share_of", prepare_without_rows)
    assert type(model).with_sparse_rows is with_rows
    with pytest.raises((MixedDevicesError, AssertionError)):
        assert_nothing_waits(stages.step_on_gpu(model, experiment, step))


def test_a_wrong_branch_for_a_gpu_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = NextItem.loss

    def wrong_on_gpu(self: NextItem, queries: torch.Tensor, *others: Any) -> torch.Tensor:
        return plain(self, queries * 1.01 if queries.is_cuda else queries, *others)

    monkeypatch.setattr(NextItem, "loss", wrong_on_gpu)
    on_cpu, found = taken(experiment_in(root, "sasrec", SOME_FORMS[0]))
    with pytest.raises(AssertionError):
        assert_equal_steps(on_cpu, found)


def test_a_wait_inside_a_step_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = NextItem.loss

    def waiting(self: NextItem, queries: torch.Tensor, *others: Any) -> torch.Tensor:
        assert queries.sum().item() != 0
        return plain(self, queries, *others)

    monkeypatch.setattr(NextItem, "loss", waiting)
    _, found = taken(experiment_in(root, "sasrec", SOME_FORMS[0]))
    with pytest.raises(AssertionError, match="_local_scalar_dense at training/"):
        assert_nothing_waits(found)


def test_launches_copies_and_waits_are_counted() -> None:
    with pretended_gpu():
        counts = counted()
        on_device = torch.ones(3).to(CUDA)
        assert isinstance(on_device, PretendTensor) and on_device.is_cuda
        sums = on_device.view(3, 1) + torch.tensor(1.0)  # a number may be on the host
        assert counts.launches == {"add.Tensor": 1}
        assert counts.num_pageable == 1
        torch.zeros(3).pin_memory().to(CUDA, non_blocking=True)
        assert counts.num_pageable == 1 and counts.copies.total() == 2
        assert not counts.waits
        assert sums.cpu().tolist() == [[2.0]] * 3
        sums[sums > 0]
        assert [wait.split(" at ")[0] for wait in counts.waits] == [
            "copy of 12 bytes to the host",
            "boolean index",
        ]
        with pytest.raises(MixedDevicesError, match=r"add.*on cuda:0, .* on the host"):
            sums + torch.ones(3, 1)
        with pytest.raises(MixedDevicesError, match="numpy"):
            sums.numpy()


def test_an_operation_without_a_kernel_for_cuda_is_named() -> None:
    assert has_kernel("add.Tensor") and has_kernel("_embedding_bag")
    assert not has_kernel("mkldnn_linear")


def test_torch_is_as_before_after_the_pretended_gpu() -> None:
    before = torch.tensor, torch.autocast, torch.Tensor.pin_memory
    with pretended_gpu():
        model = torch.nn.Linear(2, 2).to(CUDA)
        assert model(torch.ones(1, 2, device="cuda")).is_cuda
    assert (torch.tensor, torch.autocast, torch.Tensor.pin_memory) == before
    assert not torch.ones(1).is_cuda
