"""Under the sampled loss a step costs the rows that it reads: the gradient of the item table
travels as rows, with the bits of a dense one.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks
from small_dataset import small_experiment, write_dataset
from small_models import experiment_of
from torch import Tensor, distributed
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mdsrec.config import Experiment
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from training.checkpoints.format import load_checkpoint, save_checkpoint
from training.data.item_tables import ItemTables, load_item_tables
from training.data.sequences import SequenceReader
from training.data.sparse import SparseMatrix
from training.distributed import engine as ds
from training.distributed.engine_protocol import Engine
from training.distributed.zero_state import (
    create_moments,
    full_shapes,
    held_state,
    weights_are_finite,
)
from training.models.base import Model
from training.models.registry import build_model
from training.sharding.adam import adam_of_all, adam_of_rows, zero_block
from training.sharding.rows import gather_rows, sum_rows
from training.step import share_of, take_step

CPU = torch.device("cpu")
SAMPLED = {"loss": "sampled", "num_negatives": 7}
BY_ROWS = {"interest_centers": False}
STEPS = 6
SOME_ITEMS, MANY_ITEMS = 400, 1_000_000  # of enlarged catalogues


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


def lazy(experiment: Experiment) -> Experiment:
    """Return the same experiment with lazy Adam."""
    content = experiment.resolved()
    content["optim"]["lazy_adam"] = True
    return experiment_from(content, source="test")


def enlarged(matrix: SparseMatrix, num_rows: int) -> SparseMatrix:
    """Return a matrix with more rows, which are empty."""
    num_new = num_rows - matrix.num_rows
    return replace(matrix, starts=np.append(matrix.starts, num_new * [matrix.starts[-1]]))


def tables_of(experiment: Experiment, num_items: int) -> ItemTables:
    """Return the tables of the data set in a catalogue of more items, which no step reads."""
    small = load_item_tables(experiment)
    modalities = {}
    for name, found in small.modalities.items():
        graph = None if found.adjacency is None else enlarged(found.adjacency, num_items)
        features = found.features
        if features is not None:
            features = pad(features, (0, 0, 0, num_items - len(features)))
        modalities[name] = replace(found, adjacency=graph, features=features)
    O, num_train = small.cooccurrence, small.num_train  # noqa: E741
    return replace(
        small,
        num_items=num_items,
        cooccurrence=None if O is None else enlarged(O, num_items),
        modalities=modalities,
        num_train=None if num_train is None else np.pad(num_train, (0, num_items - len(num_train))),
    )


def engine_of(experiment: Experiment, num_items: int = SOME_ITEMS) -> Engine[Model]:
    model = build_model(experiment, tables_of(experiment, num_items))
    model.initialize(experiment.seed)
    engine = ds.initialize(model, experiment, CPU)
    engine.train()
    return engine


def take_steps(engine: Engine[Model], experiment: Experiment, first: int, last: int) -> Tensor:
    """Take the steps first <= step < last of epoch 0 and return their summed losses."""
    losses = []
    for number, step in enumerate(SequenceReader(experiment).steps(0)):
        if first <= number < last:
            share = share_of(engine.module, experiment, step, (0, number), CPU)
            for batch in share.batches:
                assert batch.row_ids is None or len(batch.row_ids) < SOME_ITEMS / 2
            losses.append(take_step(engine, experiment, share).sum())
    total = torch.stack(losses)
    distributed.all_reduce(total)
    return total


def state_of(engine: Engine[Model]) -> list[Tensor]:
    """Return weights and moments of everything."""
    create_moments(engine)
    kinds = "weight", "exp_avg", "exp_avg_sq"
    names = sorted(full_shapes(engine))
    return [held_state(engine, name, kind).clone() for name in names for kind in kinds]


def both_forms(resolved: list[dict[str, Any]]) -> list[list[list[Tensor]]]:
    """Train each experiment by rows and with a dense gradient -> losses and state of both."""
    by_rows = Experiment.steps_by_rows
    results = []
    for content in resolved:
        experiment = experiment_from(content, source="test")
        assert experiment.steps_by_rows
        forms = []
        for form in (by_rows, property(lambda _: False)):
            Experiment.steps_by_rows = form  # type: ignore[misc,assignment]
            engine = engine_of(experiment)
            assert (engine.item_parameters is None) == (form is not by_rows)
            forms.append([take_steps(engine, experiment, 0, STEPS), *state_of(engine)])
        Experiment.steps_by_rows = by_rows  # type: ignore[misc,method-assign]
        results.append(forms)
    return results


def test_rows_give_every_model_the_bits_of_a_dense_gradient(root: Path) -> None:
    models = [
        experiment_of(root, "mdsrec", model=BY_ROWS, train=SAMPLED),
        experiment_of(root, "mdsrec", model={"item_graph": False}, train=SAMPLED),
        experiment_of(root, "mdsrec", model=BY_ROWS, train={**SAMPLED, "accumulation": 3}),
        *(experiment_of(root, name, train=SAMPLED) for name in ("bert4rec", "missrec", "unisrec")),
        experiment_of(root, "gru4rec", train={**SAMPLED, "negatives": "popularity"}),
    ]
    for by_rows, dense in on_ranks(1, both_forms, [e.resolved() for e in models])[0]:
        for found, expected in zip(by_rows, dense, strict=True):
            assert torch.equal(found, expected)


def losses_and_item_state(resolved: list[dict[str, Any]]) -> list[list[Tensor]]:
    """Return the losses of the steps of each experiment, then E and its moments."""
    results = []
    for content in resolved:
        experiment = experiment_from(content, source="test")
        engine = engine_of(experiment)
        losses = take_steps(engine, experiment, 0, STEPS)
        kinds = "weight", "exp_avg", "exp_avg_sq"
        item_state = [held_state(engine, "item_embedding", kind) for kind in kinds]
        results.append([losses, *item_state])
    return results


@pytest.mark.slow
def test_ranks_that_hold_parts_of_the_moments_train_as_one_rank(root: Path) -> None:
    trains = [
        {**SAMPLED, "zero_stage": 0},
        {**SAMPLED, "zero_stage": 1, "accumulation": 2},
        {**SAMPLED, "zero_stage": 3},
    ]
    exact = [experiment_of(root, "mdsrec", model=BY_ROWS, train=train) for train in trains]
    experiments = [e.resolved() for e in (*exact, lazy(exact[1]))]
    [alone] = on_ranks(1, losses_and_item_state, experiments)
    several = on_ranks(3, losses_and_item_state, experiments)
    for index, of_one in enumerate(alone):
        for rank in several:
            for found, expected in zip(rank[index], of_one, strict=True):
                torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-3)
            assert torch.equal(rank[index][1], several[0][index][1])
    assert not torch.equal(alone[1][1], alone[3][1])  # lazy Adam is another optimizer


def finds_a_nan(resolved: dict[str, Any]) -> list[bool]:
    experiment = experiment_from(resolved, source="test")
    engine = engine_of(experiment)
    found = [weights_are_finite(engine)]
    assert engine.item_parameters is not None
    engine.item_parameters.weights["item_embedding"][-1, -1] = torch.nan
    return [*found, weights_are_finite(engine)]


def test_a_nan_in_a_row_is_found(root: Path) -> None:
    resolved = experiment_of(root, "sasrec", train=SAMPLED).resolved()
    assert on_ranks(1, finds_a_nan, resolved) == [[True, False]]


def interrupted(resolved: dict[str, Any], folder: str) -> list[Tensor]:
    """Train with a dense gradient, then go on by rows from the checkpoint."""
    experiment, by_rows = experiment_from(resolved, source="test"), Experiment.steps_by_rows
    Experiment.steps_by_rows = property(lambda _: False)  # type: ignore[misc,assignment]
    engine = engine_of(experiment)
    take_steps(engine, experiment, 0, 3)
    save_checkpoint(engine, Path(folder), {})
    Experiment.steps_by_rows = by_rows  # type: ignore[misc,method-assign]
    return resumed(resolved, folder)


def resumed(resolved: dict[str, Any], folder: str) -> list[Tensor]:
    experiment = experiment_from(resolved, source="test")
    engine = engine_of(experiment)
    load_checkpoint(engine, folder)
    return [take_steps(engine, experiment, 3, STEPS), *state_of(engine)]


def stopped(resolved: dict[str, Any], folder: str) -> None:
    experiment = experiment_from(resolved, source="test")
    engine = engine_of(experiment)
    take_steps(engine, experiment, 0, 3)
    Path(folder).mkdir(exist_ok=True)
    save_checkpoint(engine, Path(folder), {})


def never_stopped(resolved: dict[str, Any]) -> list[Tensor]:
    experiment = experiment_from(resolved, source="test")
    engine = engine_of(experiment)
    losses = take_steps(engine, experiment, 0, STEPS)
    return [losses[3:], *state_of(engine)]


@pytest.mark.slow
def test_a_checkpoint_of_a_dense_gradient_goes_on_by_rows(root: Path, tmp_path: Path) -> None:
    resolved = experiment_of(root, "bert4rec", train=SAMPLED).resolved()
    [expected] = on_ranks(1, never_stopped, resolved)
    [found] = on_ranks(1, interrupted, resolved, str(tmp_path))
    assert all(map(torch.equal, found, expected))


@pytest.mark.slow
def test_a_checkpoint_of_three_ranks_goes_on_with_one_at_another_stage(
    root: Path, tmp_path: Path
) -> None:
    three = experiment_of(root, "mdsrec", model=BY_ROWS, train={**SAMPLED, "zero_stage": 2})
    one = experiment_of(root, "mdsrec", model=BY_ROWS, train=SAMPLED).resolved()
    [expected] = on_ranks(1, never_stopped, one)
    on_ranks(3, stopped, three.resolved(), str(tmp_path))
    [found] = on_ranks(1, resumed, one, str(tmp_path))
    torch.testing.assert_close(found[0], expected[0], atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_checkpoint_of_one_rank_goes_on_with_three(root: Path, tmp_path: Path) -> None:
    one = experiment_of(root, "mdsrec", model=BY_ROWS, train=SAMPLED).resolved()
    three = experiment_of(root, "mdsrec", model=BY_ROWS, train={**SAMPLED, "zero_stage": 1})
    [expected] = on_ranks(1, never_stopped, one)
    on_ranks(1, stopped, one, str(tmp_path))
    for rank in on_ranks(3, resumed, three.resolved(), str(tmp_path)):
        torch.testing.assert_close(rank[0], expected[0], atol=2e-5, rtol=1e-4)
        for value, whole in zip(rank[-3:], expected[-3:], strict=True):
            torch.testing.assert_close(value, whole, atol=2e-5, rtol=1e-3)


@pytest.mark.slow
def test_kept_centers_are_part_of_a_checkpoint(root: Path, tmp_path: Path) -> None:
    """c^0 of step 3 is that of step 2, which a run resumed at step 3 did not compute."""
    model = {"center_refresh": 2}
    resolved = experiment_of(root, "mdsrec", model=model, train=SAMPLED).resolved()
    [expected] = on_ranks(1, never_stopped, resolved)
    on_ranks(1, stopped, resolved, str(tmp_path))
    [found] = on_ranks(1, resumed, resolved, str(tmp_path))
    assert all(map(torch.equal, found, expected))


def kept_by_step(resolved: dict[str, Any]) -> list[Tensor]:
    """Return c^0 of text as kept after each step, and c^0 of the weights after the last one."""
    experiment = experiment_from(resolved, source="test")
    engine = engine_of(experiment)
    kept = []
    for number in range(4):
        take_steps(engine, experiment, number, number + 1)
        kept.append(engine.module.kept()["text"].clone())
    model = engine.module
    products = {n: rows.times(model.item_embedding) for n, rows in model.center_rows.items()}
    model.refresh(products)
    return [*kept, engine.module.kept()["text"]]


def test_centers_are_computed_in_every_second_step(root: Path) -> None:
    experiment = experiment_of(root, "mdsrec", model={"center_refresh": 2}, train=SAMPLED)
    [(first, second, third, fourth, fresh)] = on_ranks(1, kept_by_step, experiment.resolved())
    assert torch.equal(first, second) and torch.equal(third, fourth)
    assert not torch.equal(second, third) and not torch.equal(fourth, fresh)


class Largest(TorchDispatchMode):
    """The size in elements of the largest storage that an operation created."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if torch.is_tensor(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.size = max(self.size, tensor.numel())
        return result


def largest_in_a_step(resolved: dict[str, Any]) -> tuple[int, int]:
    """Return the elements of the largest tensor that a step creates, and of the item table."""
    experiment = experiment_from(resolved, source="test")
    engine = engine_of(experiment, MANY_ITEMS)
    take_steps(engine, experiment, 0, 1)
    with Largest() as largest:
        take_steps(engine, experiment, 1, 2)
    return largest.size, engine.module.item_embedding.numel()


@pytest.mark.parametrize("is_lazy", [False, True])
def test_no_tensor_of_a_step_is_nearly_as_large_as_the_item_table(
    root: Path, is_lazy: bool
) -> None:
    experiment = experiment_of(root, "mdsrec", model=BY_ROWS, train=SAMPLED)
    experiment = lazy(experiment) if is_lazy else experiment
    [(largest, table)] = on_ranks(1, largest_in_a_step, experiment.resolved())
    assert table == MANY_ITEMS * 8
    assert 0 < largest < table / 8


def adam_of_torch(optimizer: type[torch.optim.Optimizer], sparse: bool, **keys: Any) -> Tensor:
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 300).view(100, 3))
    adam = optimizer([weight], lr=0.05, **keys)  # type: ignore[call-arg]
    for step in range(5):
        ids, gradient = rows_of(step)
        dense = torch.zeros(100, 3).index_copy(0, ids, gradient)
        weight.grad = dense.to_sparse(1) if sparse else dense
        adam.step()
    return weight.detach()


def rows_of(step: int) -> tuple[Tensor, Tensor]:
    ids = torch.arange(step, 100, 7)
    generator = torch.Generator().manual_seed(step)
    return ids, torch.randn(len(ids), 3, generator=generator)


@pytest.mark.parametrize("is_lazy", [False, True])
def test_adam_by_rows_is_that_of_torch(is_lazy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.sharding.adam.working_set", lambda _: 16)
    monkeypatch.setattr("training.sharding.adam.BLOCK_BYTES", 16)
    weight = torch.linspace(-1, 1, 300).view(100, 3).clone()
    state, zeros = (weight, torch.zeros(100, 3), torch.zeros(100, 3)), zero_block(weight)
    assert len(zeros) == 64  # so there are two blocks
    for step in range(5):
        if is_lazy:
            adam_of_rows(state, *rows_of(step), 0.05, step + 1)
        else:
            adam_of_all(state, *rows_of(step), zeros, 0.05, step + 1)
            assert not zeros.any()
    if is_lazy:
        expected = adam_of_torch(torch.optim.SparseAdam, True)
    else:
        expected = adam_of_torch(torch.optim.Adam, False, fused=True)
    if is_lazy:
        torch.testing.assert_close(weight, expected, atol=1e-5, rtol=1e-4)
    else:
        assert torch.equal(weight, expected)


def test_rows_of_the_same_item_are_added_up_in_order() -> None:
    ids = [torch.tensor([1, 4]), torch.tensor([0, 4, 9])]
    rows = [torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0], [5.0]])]
    found, sums = sum_rows(ids, rows)
    assert found.tolist() == [0, 1, 4, 9]
    assert sums.tolist() == [[3.0], [1.0], [6.0], [5.0]]


def gathered() -> list[list[float]]:
    rank = distributed.get_rank()
    parts = gather_rows(torch.arange(rank), torch.full((rank, 2), float(rank)))
    return [ids.tolist() + rows.flatten().tolist() for ids, rows in parts]


def test_ranks_gather_different_numbers_of_rows() -> None:
    assert on_ranks(3, gathered) == 3 * [[[], [0, 1.0, 1.0], [0, 1, 2.0, 2.0, 2.0, 2.0]]]


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"loss": "full"}},
        {"train": {**SAMPLED, "zero_stage": 1, "offload": "optimizer"}, "model": BY_ROWS},
        {"train": SAMPLED, "model": {"interest_centers": True}},
        {"train": SAMPLED, "model": BY_ROWS, "optim": {"gradient_clipping": 1.0}},
    ],
)
def test_lazy_adam_is_refused_where_steps_change_all_rows(sections: dict[str, Any]) -> None:
    optim = {"lazy_adam": True, **sections.get("optim", {})}
    with pytest.raises(InputError, match="lazy_adam needs steps that read single rows"):
        experiment_of(Path("/"), "mdsrec", **{**sections, "optim": optim})
