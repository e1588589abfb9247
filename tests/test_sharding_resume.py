"""Any number of ranks, in either form, continues from a checkpoint of any other."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from gloo import on_ranks
from sharded_steps import NUM_ITEMS, Job, engine_of, joined, state_of, take_steps
from small_dataset import small_experiment, write_dataset
from small_models import experiment_of
from torch import Tensor, distributed

from training.checkpoints.format import load_checkpoint, save_checkpoint
from training.checkpoints.tensor_file import TensorFile

REPLICATED, SHARDED, PLACED = "replicated", "sharded", "sharded in another order"
WIDTH = 8  # of the item table
Outcome = dict[str, Tensor]


class Leg(NamedTuple):
    """Steps of a training between two checkpoints, which are names of folders."""

    form: str
    first: int
    last: int
    load: str = ""
    save: str = ""
    zero_stage: int = 0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


def go(root: str, legs: list[Leg]) -> list[Outcome]:
    """Take the steps of each leg on this rank."""
    return [go_leg(Path(root), leg) for leg in legs]


def go_leg(root: Path, leg: Leg) -> Outcome:
    experiment = experiment_of(root, "mdsrec", train={"zero_stage": leg.zero_stage})
    form = {"sharded": leg.form != REPLICATED, "placed": leg.form == PLACED}
    engine = engine_of(experiment, Job(experiment.resolved(), precise=False, **form))
    num_read: list[int] = []
    if leg.load:
        with counted_reads(num_read):
            assert load_checkpoint(engine, str(root / leg.load)) == {"next": leg.first}
    losses = take_steps(engine, experiment, leg.first, leg.last)
    if leg.save:
        folder = root / leg.save
        folder.mkdir(exist_ok=True)
        save_checkpoint(engine, folder, {"next": leg.last})
    distributed.barrier()
    bytes_read = torch.tensor([sum(num_read)])
    distributed.all_reduce(bytes_read)
    return {"losses": losses, **state_of(engine), "bytes read": bytes_read}


@contextmanager
def counted_reads(num_read: list[int]) -> Iterator[None]:
    """Append the bytes of each piece of the item table, and of its order, that is read."""
    elements = TensorFile.elements

    def counted(file: TensorFile, name: str, first: int, last: int) -> Tensor:
        found = elements(file, name, first, last)
        num_read.append(found.nbytes if "item" in name else 0)
        return found

    TensorFile.elements = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        TensorFile.elements = elements  # type: ignore[method-assign]


def run_legs(root: Path, world_size: int, legs: list[Leg]) -> list[list[Outcome]]:
    """Take the steps of each leg on so many ranks -> the ranks of each leg."""
    of_ranks = on_ranks(world_size, go, str(root), legs)
    return [list(ranks) for ranks in zip(*of_ranks, strict=True)]


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> list[list[Outcome]]:
    """Train on one rank that holds all items, to steps 6, 4 and so on."""
    return run_legs(root, 1, [Leg(REPLICATED, 0, 6)])


@pytest.fixture(scope="module")
def moved(root: Path) -> list[list[Outcome]]:
    legs = [
        Leg(REPLICATED, 0, 2, save="replicated", zero_stage=1),
        Leg(PLACED, 2, 4, load="replicated", save="placed"),
        Leg(REPLICATED, 4, 6, load="placed", zero_stage=2),
        Leg(SHARDED, 4, 6, load="placed"),
        Leg(PLACED, 4, 6, load="placed"),
        Leg(PLACED, 2, 6, load="replicated"),
    ]
    return run_legs(root, 2, legs)


def assert_goes_on(ranks: list[Outcome], whole: list[Outcome], first: int) -> None:
    """Assert that the steps from `first` on, and the item table, are as if never disturbed."""
    found, expected = joined(ranks), joined(whole)
    torch.testing.assert_close(found["losses"], expected["losses"][first:], atol=1e-5, rtol=0)
    for name in expected:
        if name.startswith("item_embedding"):
            torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_replicated_to_sharded_to_replicated_is_one_training(
    undisturbed: list[list[Outcome]], moved: list[list[Outcome]]
) -> None:
    assert_goes_on(moved[2], undisturbed[0], 4)


def test_a_sharded_training_goes_on_in_another_order_of_items(
    undisturbed: list[list[Outcome]], moved: list[list[Outcome]]
) -> None:
    assert_goes_on(moved[3], undisturbed[0], 4)


def test_the_same_ranks_go_on_with_the_same_bits(moved: list[list[Outcome]]) -> None:
    """A training is stopped after step 4, and one is not."""
    for stopped, whole in zip(moved[4], moved[5], strict=True):
        assert torch.equal(stopped["losses"], whole["losses"][2:])
        for name in stopped.keys() - {"losses", "bytes read"}:
            assert torch.equal(stopped[name], whole[name])


@pytest.mark.parametrize("leg", [1, 3, 4, 5])
def test_the_ranks_together_read_the_item_table_once(moved: list[list[Outcome]], leg: int) -> None:
    table = 12 * NUM_ITEMS * WIDTH  # weights and two moments
    bytes_read = int(moved[leg][0]["bytes read"])
    assert table <= bytes_read <= 1.1 * table


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", [SHARDED, PLACED])
def test_four_then_two_then_three_then_one_rank_is_one_training(root: Path, form: str) -> None:
    whole = run_legs(root, 1, [Leg(REPLICATED, 0, 20)])[0]
    folder, load, first = form.replace(" ", "-"), "", 0
    for world_size in (4, 2, 3, 1):
        save = f"{folder} {world_size}"
        [ranks] = run_legs(root, world_size, [Leg(form, first, first + 5, load, save)])
        expected = joined(whole)["losses"][first : first + 5]
        torch.testing.assert_close(joined(ranks)["losses"], expected, atol=1e-5, rtol=0)
        if load:
            bytes_read = int(ranks[0]["bytes read"])
            assert bytes_read <= 1.1 * 12 * NUM_ITEMS * WIDTH
        load, first = save, first + 5
    assert_goes_on(ranks, whole, 15)
