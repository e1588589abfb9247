"""The sampled loss equals the full one if every item is a negative, and is unbiased otherwise."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks
from mdsrec_world import CPU, SETTINGS, World, world_experiment
from reference_tables import adjacency, membership, sparse_matrix
from small_dataset import NUM_ITEMS, small_experiment, write_dataset
from torch import Tensor
from training_steps import losses_of_steps

from mdsrec.config import TrainConfig
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from training.data.batch import Batch, batch_of
from training.data.item_tables import ItemTables, ModalityTables, load_item_tables
from training.data.negatives import (
    InBatchSampler,
    Negatives,
    Sampler,
    StratifiedSampler,
    UniformSampler,
    build_sampler,
)
from training.data.sequences import SequenceReader
from training.data.windows import Step, windows_of
from training.losses.sampled_softmax import sampled_softmax_loss
from training.models.mdsrec.model import MDSRec
from training.step import negatives_of

X, D, K, LENGTH = 3000, 6, 3, 6
DRAWS = 60
KINDS = ("uniform", "popularity", "in_batch")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Use one thread, which is faster for many small steps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class LargeWorld:
    """A model of 3,000 items with random histories; items with more events have higher scores."""

    def __init__(self, num_users: int, settings: dict[str, Any]) -> None:
        random = np.random.default_rng(0)
        self.num_train = random.permutation(2000 // np.arange(1, X + 1))
        e = world_experiment({"modalities": ["text"], "num_layers": 1, **settings})
        items, five = np.arange(X), np.full(X, 5)
        self.near = random.integers(0, X, (X, 5))
        self.graph = adjacency(
            items, five, self.near.ravel(), X, e.model.num_neighbors, e.model.include_self
        )
        members = membership(items, items % K, K) if e.model.interest_centers else None
        O = sparse_matrix(items, self.near[:, 0], np.ones(X), X)  # noqa: E741
        text = ModalityTables(self.graph, None, members)
        self.tables = ItemTables(X, O, {"text": text}, {}, self.num_train)
        self.model = MDSRec(e, self.tables)
        self.model.initialize(1)
        with torch.no_grad():
            torch.manual_seed(0)
            for parameter in self.model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
            events = torch.from_numpy(self.num_train).float()
            self.model.item_embedding[:, 0] += 0.2 * events.log1p()
        share = self.num_train / self.num_train.sum()
        self.histories = random.choice(X, size=(num_users, LENGTH), p=share)

    def step(self, users: slice) -> Step:
        """Return a step of all prefixes of the users."""
        histories = self.histories[users]
        offsets = LENGTH * np.arange(len(histories))
        samples = windows_of(histories.ravel(), offsets, np.full(len(histories), LENGTH), 8)
        return Step(samples, int(samples.num_prefixes.sum()))

    def loss(self, step: Step, negatives: Negatives | None) -> Tensor:
        noise = torch.zeros(step.num_prefixes, 1, K)
        losses = self.model(batch_of(step, 0, 1, noise, CPU, negatives))
        return self.model.channel_weights @ losses / step.num_prefixes

    def gradient(self, step: Step, negatives: Negatives | None) -> Tensor:
        gradients = torch.autograd.grad(
            self.loss(step, negatives), list(self.model.parameters()), materialize_grads=True
        )
        return torch.cat([gradient.flatten().double() for gradient in gradients])

    def mean_gradient(self, step: Step, sampler: Sampler, corrected: bool = True) -> Tensor:
        """Return the mean over draws, with their weights or, uncorrected, with equal ones."""
        total = torch.zeros(())
        for seed in range(DRAWS):
            drawn = sampler.draw(step.targets, seed)
            if not corrected:
                drawn = uncorrected(drawn)
            total = total + self.gradient(step, drawn) / DRAWS
        return total


def uncorrected(drawn: Negatives) -> Negatives:
    return drawn._replace(log_weights=np.full(len(drawn.items), np.log(X / len(drawn.items))))


@cache
def large_world() -> LargeWorld:
    return LargeWorld(30, {})


def train_config(negatives: str, num_negatives: int) -> TrainConfig:
    count = {} if negatives == "in_batch" else {"num_negatives": num_negatives}
    return TrainConfig.model_validate({"loss": "sampled", "negatives": negatives, **count})


def sampler_for(negatives: str, num_negatives: int, tables: ItemTables) -> Sampler:
    sampler = build_sampler(train_config(negatives, num_negatives), tables)
    assert sampler is not None
    return sampler


def cosine(one: Tensor, other: Tensor) -> float:
    return torch.cosine_similarity(one, other, dim=0).item()


@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_with_every_item_as_a_negative_the_sampled_loss_is_the_full_loss(
    settings: dict[str, Any], negatives: str
) -> None:
    tiny = World(settings)
    model, (batch, num_prefixes) = tiny.model.double(), tiny.batch()
    num_items = tiny.tables.num_items
    tables = ItemTables(num_items, tiny.tables.cooccurrence, {}, {}, np.arange(num_items) % 5)
    drawn = sampler_for(negatives, num_items, tables).draw(np.arange(0), 3)
    scored = drawn.with_targets(batch.targets.numpy(), CPU)
    sampled, full = (
        _value_and_gradients(model, batch._replace(noise=batch.noise.double(), scored=items))
        for items in (scored, None)
    )
    assert num_prefixes and sampled[0].item() > 1
    for one, other in zip(sampled, full, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-6)


def _value_and_gradients(model: MDSRec, batch: Batch) -> list[Tensor]:
    loss = model.channel_weights @ model(batch)
    parameters = list(model.parameters())
    return [loss, *torch.autograd.grad(loss, parameters, materialize_grads=True)]


@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_the_mean_gradient_converges_to_the_full_one_with_more_negatives(negatives: str) -> None:
    world = large_world()
    step = world.step(slice(None))
    full = world.gradient(step, None)
    means = [
        world.mean_gradient(step, sampler_for(negatives, n, world.tables)) for n in (10, 100, 1000)
    ]
    few, some, many = ((mean - full).norm().item() for mean in means)
    assert few > 1.5 * some and some > 1.5 * many
    assert cosine(means[-1], full) >= 0.99


def test_without_the_correction_for_popularity_the_mean_gradient_is_biased() -> None:
    world = large_world()
    step = world.step(slice(None))
    full = world.gradient(step, None)
    sampler = sampler_for("popularity", 1000, world.tables)
    biased = world.mean_gradient(step, sampler, corrected=False)
    corrected = world.mean_gradient(step, sampler)
    assert (biased - full).norm() > 3 * (corrected - full).norm()
    assert cosine(biased, full) < 0.97 < 0.99 < cosine(corrected, full)


def test_without_the_correction_negatives_in_batch_bias_the_gradient_of_an_epoch() -> None:
    """The negatives of each step of an epoch of 2,000 users are its 500 targets."""
    world = LargeWorld(2000, {})
    full, corrected, biased = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for first in range(0, 2000, 100):
        step = world.step(slice(first, first + 100))
        drawn = InBatchSampler(world.num_train).draw(step.targets, 0)
        full = full + world.gradient(step, None)
        corrected = corrected + world.gradient(step, drawn)
        biased = biased + world.gradient(step, uncorrected(drawn))
    assert (biased - full).norm() > 2 * (corrected - full).norm()
    assert cosine(biased, full) < 0.9 < 0.97 < cosine(corrected, full)


def test_a_target_counts_once_even_if_drawn_and_each_negative_by_its_weight() -> None:
    torch.manual_seed(0)
    queries, items = torch.randn(2, 3, D), torch.randn(9, D)
    targets = np.array([4, 7, 4])  # 4 is a negative, 7 is not
    drawn = Negatives(np.array([8, 4, 2]), np.log([1.5, 2.0, 7.0]))
    scored = drawn.with_targets(targets, CPU)
    losses = sampled_softmax_loss(queries, [items[scored.items], -items[scored.items]], scored)
    weight_of = {8: 1.5, 4: 2.0, 2: 7.0}
    for channel, sign in enumerate((1, -1)):
        expected = torch.zeros(())
        for query, target in zip(queries[channel], targets, strict=True):
            exp = (sign * items @ query).exp()
            others = sum(w * exp[i] for i, w in weight_of.items() if i != target)
            expected = expected - (exp[target] / (exp[target] + others)).log()
        torch.testing.assert_close(losses[channel], expected)


def test_the_gradient_is_that_of_a_softmax_over_negatives_weighted_by_one_minus_p_target() -> None:
    torch.manual_seed(0)
    queries, items = torch.randn(1, 1, D), torch.randn(9, D, requires_grad=True)
    drawn = Negatives(np.array([8, 4, 2]), np.log([1.5, 2.0, 7.0]))
    scored = drawn.with_targets(np.array([5]), CPU)
    loss = sampled_softmax_loss(queries, [items[scored.items]], scored).sum()
    scores = items @ queries[0, 0]
    others = (scores[[8, 4, 2]] + torch.tensor([1.5, 2.0, 7.0]).log()).logsumexp(0)
    weight = torch.sigmoid(others - scores[5]).detach()  # 1 - p(target)
    expected = weight * (others - scores[5])
    gradients = [torch.autograd.grad(value, items)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)


def test_a_step_reads_only_its_items_and_their_neighbors() -> None:
    world = LargeWorld(3, {"interest_centers": False})
    step = world.step(slice(None))
    drawn = StratifiedSampler(np.ones(X), 20).draw(step.targets, 0)
    before = world.loss(step, drawn)
    items = np.concatenate([world.histories.ravel(), drawn.items])
    reached = np.union1d(items, world.near[items])
    with torch.no_grad():
        world.model.item_embedding[np.setdiff1d(np.arange(X), reached)] = torch.nan
    assert len(reached) < X // 10
    assert torch.equal(world.loss(step, drawn), before)
    assert world.loss(step, None).isnan()


@pytest.mark.parametrize("num_negatives", [1, 7, 40, 100])
def test_an_item_is_drawn_as_often_as_its_weight_says(num_negatives: int) -> None:
    events = np.random.default_rng(0).permutation(np.append(1000 // np.arange(1, 100), 1.0))
    drawn = [
        StratifiedSampler(events, num_negatives).draw(np.arange(0), seed) for seed in range(4000)
    ]
    weights, times = np.zeros(100), np.zeros(100)
    for items, log_weights in drawn:
        assert len(np.unique(items)) == len(items)
        weights[items] += np.exp(log_weights) / len(drawn)
        times[items] += 1 / len(drawn)
    rare = min(1.0, num_negatives / events.sum())  # expected draws of an item of one event, or less
    assert weights == pytest.approx(np.ones(100), abs=5 / np.sqrt(rare * len(drawn)))
    heavy = np.argmax(events)
    expected = min(1, num_negatives * events[heavy] / events.sum())
    assert times[heavy] == pytest.approx(expected, abs=0.03)
    if num_negatives == 100:
        assert all((n.items == drawn[0].items).all() and not n.log_weights.any() for n in drawn)


@pytest.mark.parametrize(("num_items", "n"), [(1, 1), (3000, 1), (3000, 40), (1001, 1000), (7, 7)])
def test_the_closed_form_of_equal_weights_draws_what_the_other_draws(
    num_items: int, n: int
) -> None:
    stratified = StratifiedSampler(np.ones(num_items), n)
    for seed in range(200):
        drawn = UniformSampler(num_items, n).draw(np.arange(0), seed)
        expected = stratified.draw(np.arange(0), seed)
        assert drawn.items.tolist() == expected.items.tolist()
        assert drawn.log_weights == pytest.approx(expected.log_weights, abs=1e-9)


def test_the_targets_of_a_step_are_those_of_its_ranks_together(tmp_path: Path) -> None:
    experiment = small_experiment(tmp_path)
    write_dataset(experiment)
    for step in SequenceReader(experiment).steps(0):
        noise = torch.zeros(step.num_prefixes, 2, K)
        targets = torch.cat([batch_of(step, rank, 3, noise, CPU).targets for rank in range(3)])
        assert sorted(targets.tolist()) == sorted(step.targets.tolist())


def sampled_experiment(root: Path, negatives: str, **sections: Any) -> dict[str, Any]:
    """Return the keys of a small experiment with the sampled loss."""
    train = train_config(negatives, 9).model_dump(include={"loss", "negatives", "num_negatives"})
    train |= sections.pop("train", {})
    return small_experiment(root, train=train, **sections).resolved()


def losses_of_runs(runs: list[dict[str, Any]]) -> list[Tensor]:
    return [losses_of_steps(resolved, 4) for resolved in runs]


@pytest.mark.slow
def test_two_workers_draw_the_same_negatives_and_take_the_same_steps_as_one(
    tmp_path: Path,
) -> None:
    write_dataset(small_experiment(tmp_path))
    parts = {"accumulation": 3, "zero_stage": 3}
    runs = [sampled_experiment(tmp_path, negatives) for negatives in KINDS]
    runs += [sampled_experiment(tmp_path, "uniform", model={"item_graph": False}, train=parts)]
    full = small_experiment(tmp_path).resolved()
    expected = on_ranks(1, losses_of_runs, [*runs, runs[0], full])[0]
    assert torch.equal(expected[0], expected[-2])  # the same seed
    assert not any(torch.allclose(expected[0], other) for other in (expected[1], expected[-1]))
    of_two_workers = on_ranks(2, losses_of_runs, runs)
    for losses, *of_ranks in zip(expected, *of_two_workers, strict=False):
        assert not torch.allclose(*of_ranks)
        torch.testing.assert_close(sum(of_ranks), losses, atol=1e-5, rtol=0)


def test_negatives_depend_on_the_seed_the_epoch_and_the_step(tmp_path: Path) -> None:
    write_dataset(small_experiment(tmp_path))
    negatives = []
    for seed, position in [(0, (0, 0)), (0, (0, 0)), (1, (0, 0)), (0, (1, 0)), (0, (0, 1))]:
        content = {**sampled_experiment(tmp_path, "uniform"), "seed": seed}
        e = experiment_from(content, source="test")
        model, step = MDSRec(e, load_item_tables(e)), next(SequenceReader(e).steps(0))
        drawn = negatives_of(model, e, step, position)
        assert drawn is not None
        negatives.append(drawn.items.tolist())
    assert negatives[0] == negatives[1] and negatives[0] not in negatives[2:]


def test_negatives_in_batch_are_the_targets_of_the_step(tmp_path: Path) -> None:
    e = experiment_from(sampled_experiment(tmp_path, "in_batch"), source="test")
    write_dataset(e)
    model, step = MDSRec(e, load_item_tables(e)), next(SequenceReader(e).steps(0))
    drawn = negatives_of(model, e, step, (0, 0))
    assert drawn is not None
    assert drawn.items.tolist() == sorted(set(step.targets.tolist()))


def test_the_full_loss_needs_no_sampler_and_no_counts_of_events(tmp_path: Path) -> None:
    e = small_experiment(tmp_path)
    write_dataset(e)
    tables = load_item_tables(e)
    assert tables.num_train is None and MDSRec(e, tables).sampler is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "sampled"}, "negatives uniform needs num_negatives above 0"),
        ({"num_negatives": 9}, "num_negatives 9 has no effect here"),
        (
            {"loss": "sampled", "negatives": "in_batch", "num_negatives": 9},
            "num_negatives 9 has no effect here",
        ),
        ({"negatives": "popularity"}, 'negatives popularity needs loss "sampled"'),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.model_validate(settings)


def test_more_negatives_than_items_are_refused(tmp_path: Path) -> None:
    train = {"loss": "sampled", "num_negatives": NUM_ITEMS + 1}
    e = small_experiment(tmp_path, train=train)
    write_dataset(e)
    with pytest.raises(InputError, match=r"train\.num_negatives = 41, but there are 40 items"):
        load_item_tables(e)
