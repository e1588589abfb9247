"""The fast model is the paper's: it equals a plain float64 form of Eq. 1-24."""

from typing import Any

import numpy as np
import oracle as plain
import pytest
import torch
from torch import Tensor

from mdsrec.config import Experiment
from mdsrec.normalization import normalized
from training.data.item_tables import ItemTables, ModalityTables, adjacency, membership
from training.data.sequences import Samples, Step, batch_of, windows_of
from training.data.sparse import by_row
from training.inference import padded, user_vectors
from training.models.mdsrec.items import module_key
from training.models.mdsrec.model import MDSRec

X, D, K, H = 11, 6, 3, 4
CPU = torch.device("cpu")
HAS = {"text": list(range(X)), "image": [0, 1, 2, 4, 5, 7, 8, 10]}  # items that have the modality
SEQUENCES = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7], [0, 10, 0]]

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "symmetric O": {"graph.normalize": "symmetric"},
    "bare O": {"graph.normalize": "none"},
    "without self": {"include_self": False},
    "no neighbours": {"num_neighbors": 0},
    "no neighbours, without self": {"num_neighbors": 0, "include_self": False},
    "three layers, one head": {"num_layers": 3, "num_heads": 1},
    "projected centres": {"num_layers": 3, "num_heads": 6},
    "unequal rho, cold": {"rho": {"text": 0.9, "image": 0.1}, "tau": 0.3},
    "cosines": {"temperature": 0.2},
    "cosines, w/o MRGC": {"temperature": 0.2, "item_graph": False},
    "w/o DIS": {"graph.distance": False},
    "w/o CRE in the sequence": {"mu_id": 0.0},
    "w/o MRGC": {"item_graph": False},
    "w/o ICA": {"interest_centers": False},
    "w/o MRGC and ICA": {"item_graph": False, "interest_centers": False},
    "ids alone": {"modalities": []},
    "text alone": {"modalities": ["text"]},
}


def experiment(settings: dict[str, Any]) -> Experiment:
    model = {k: v for k, v in settings.items() if not k.startswith("graph.")}
    graph = {k.removeprefix("graph."): v for k, v in settings.items() if k.startswith("graph.")}
    shape = {"dim": D, "num_heads": 2, "inner_dim": 5, "max_length": 8, "dropout": 0.0}
    return Experiment.model_validate(
        {
            "name": "world",
            "root": "world",
            "input": {"edition": "2018", "reviews": ["reviews.json"]},
            "features": {m: {"vectors": f"{m}.parquet"} for m in HAS},
            "graph": {"max_neighbors": H + 1, **graph},
            "model": {**shape, "num_neighbors": H, "num_centers": K, "mu_id": 1.5, **model},
        }
    )


class World:
    """A random data set, once as the model's tables and once as the oracle's dense matrices."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.experiment = e = experiment(settings)
        generator = np.random.default_rng(0)
        O = plain.cooccurrence(SEQUENCES, X, e.graph.distance)  # noqa: E741
        rows, columns = (i.astype(np.int64) for i in np.nonzero(O.numpy()))
        weights = normalized(rows, columns, O.numpy()[rows, columns], e.graph.normalize)
        self.N_O = plain.normalized(O, e.graph.normalize)
        self.Ahat, self.C, self.features = {}, {}, {}
        modalities = {}
        for m in e.modalities:
            has = np.isin(np.arange(X), HAS[m])
            items = np.flatnonzero(has)
            vectors = torch.from_numpy(generator.normal(size=(X, 7)) * has[:, None])
            lists = plain.neighbors(
                plain.smoothed(vectors, self.N_O, 0.2), torch.tensor(has), H + 1
            )
            centers = np.arange(len(items)) % K
            lengths = np.array([len(lists[i]) for i in items])
            flat = np.concatenate([np.array(lists[i], dtype=np.int64) for i in items])
            graph = None
            if e.model.item_graph:
                count, include_self = e.model.num_neighbors, e.model.include_self
                graph = adjacency(items, lengths, flat, X, count, include_self)
            members = membership(items, centers, K)
            modalities[m] = ModalityTables(
                graph,
                None if e.model.item_graph else vectors.float(),
                members if e.model.interest_centers else None,
            )
            of_item: list[int | None] = [None] * X
            for item, center in zip(items, centers, strict=True):
                of_item[item] = int(center)
            self.Ahat[m] = plain.adjacency(
                lists,
                e.model.num_neighbors,
                torch.tensor(has),
                e.model.include_self,
            )
            self.C[m] = plain.membership(of_item, K)
            self.features[m] = vectors.float().double()
        self.tables = ItemTables(X, by_row(rows, columns, weights, X), modalities, {})
        self.model = MDSRec(e, self.tables)
        self.model.initialize(seed=1)
        with torch.no_grad():  # large enough that every term of every equation is felt
            torch.manual_seed(0)
            for parameter in self.model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)

    def oracle(self) -> tuple[plain.Oracle, dict[str, Tensor]]:
        params = {
            name: p.detach().double().requires_grad_() for name, p in self.model.named_parameters()
        }
        e = self.experiment
        rho = {m: e.rho(m) for m in e.modalities}
        named = {oracle_name(name): p for name, p in params.items()}
        oracle = plain.Oracle(named, e.model, rho, self.N_O, self.Ahat, self.C, self.features)
        return oracle, params

    def batch(self) -> Any:
        lengths = np.array([len(s) for s in SEQUENCES])
        samples = windows_of(
            np.concatenate(SEQUENCES),
            np.cumsum(lengths) - lengths,
            lengths,
            self.experiment.model.max_length,
        )
        step = Step(samples, int(samples.num_prefixes.sum()))
        return batch_of(step, 0, 1, self.noise(step.num_prefixes), CPU), step.num_prefixes

    def noise(self, num_prefixes: int) -> Tensor:
        generator = torch.Generator().manual_seed(5)
        M = len(self.experiment.modalities)
        return torch.rand((num_prefixes, M, K), generator=generator).logit()

    def oracle_noise(self) -> list[list[dict[str, Tensor]]]:
        lengths = [len(s) - 1 for s in SEQUENCES]
        rows = iter(self.noise(sum(lengths)).double())
        modalities = self.experiment.modalities
        return [[dict(zip(modalities, next(rows), strict=True)) for _ in range(n)] for n in lengths]


def oracle_name(name: str) -> str:
    """The oracle calls parameters by their place in the paper."""
    name = name.replace("modality_", "")
    if ".center." in name:
        _, m, _, layer, _, *rest = name.split(".")
        return ".".join(["centers", m, layer, *rest])
    if ".feature_map." in name:
        return name.replace("items.constants.", "feature_maps.").replace(".feature_map.", ".")
    return name


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_loss_and_gradients_are_the_oracles(settings: dict[str, Any]) -> None:
    world = World(settings)
    batch, num_prefixes = world.batch()
    loss = world.model.channel_weights @ world.model(batch) / num_prefixes
    loss.backward()
    oracle, params = world.oracle()
    expected = oracle.loss(SEQUENCES, world.oracle_noise())
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for name, parameter in world.model.named_parameters():
        wanted = params[name].grad
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        wanted = torch.zeros_like(params[name]) if wanted is None else wanted
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_scores_are_the_oracles(settings: dict[str, Any]) -> None:
    world = World(settings)
    oracle, _ = world.oracle()
    histories = [np.array(s, dtype=np.int32) for s in SEQUENCES]
    item_vectors = world.model.eval().item_vectors()
    queries = world.model.user_vectors(*padded(histories, 8), item_vectors)
    channels = torch.einsum("bcd,cxd->bcx", queries, item_vectors.vectors)
    whole = torch.einsum("bcx,c->bx", channels, world.model.channel_weights)
    for user, history in enumerate(SEQUENCES):
        expected = oracle.logits(history)
        found = dict(zip(("fused", *world.experiment.modalities), channels[user], strict=True))
        for channel, scores in {**found, "all": whole[user]}.items():
            torch.testing.assert_close(scores.double(), expected[channel], atol=1e-5, rtol=1e-5)


def test_a_history_beyond_max_length_is_its_last_events() -> None:
    world = World({"max_length": 4})
    oracle, _ = world.oracle()
    history = SEQUENCES[2]
    model = world.model.eval()
    items = model.item_vectors()
    query = model.user_vectors(*padded([np.array(history, dtype=np.int32)], 4), items)
    scores = torch.einsum("cd,cxd,c->x", query[0], items.vectors, model.channel_weights)
    expected = oracle.logits(history)["all"]
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(oracle.logits(history[-4:])["all"], expected)


def test_users_of_any_length_are_encoded_as_if_alone() -> None:
    model = World({}).model.eval()
    histories = [np.arange(n, dtype=np.int32) % X for n in (3, 12, 1, 7, 1, 2, 9, 5, 4, 6, 8)]
    item_vectors = model.item_vectors()
    together = user_vectors(model, histories, item_vectors)
    for history, vector in zip(histories, together, strict=True):
        alone = model.user_vectors(*padded([history], 8), item_vectors)[0]
        torch.testing.assert_close(vector, alone, atol=1e-5, rtol=1e-5)
    assert user_vectors(model, [], item_vectors).shape == (0, 3, D)


def test_a_prefix_is_blind_to_later_items() -> None:
    world = World({})
    batch, _ = world.batch()
    items = batch.items[batch.place]
    before = _queries(world.model, items, batch.noise)
    later = items.clone()
    later[:, 3:] = (later[:, 3:] + 1) % X
    after = _queries(world.model, later, batch.noise)
    torch.testing.assert_close(after[:, :3], before[:, :3], atol=0, rtol=0)
    assert not torch.allclose(after[:, 3:], before[:, 3:])


def _queries(model: MDSRec, items: Tensor, noise: Tensor) -> Tensor:
    item_vectors = model.item_vectors()
    at = torch.arange(items.shape[1]).expand_as(items)
    return model.queries(
        item_vectors.tokens(torch.arange(X)), item_vectors.centers, items, at, noise
    )


def test_items_that_training_hides_leave_their_positions_alone() -> None:
    model = World({"item_mask": 0.9999}).model
    items, noise = torch.tensor([[3, 1, 4], [9, 2, 6]]), torch.zeros(2, 3, 2, K)
    torch.manual_seed(0)
    hidden = _queries(model.train(), items, noise)
    torch.testing.assert_close(hidden[0], hidden[1])
    shown, unmasked = (
        _queries(m.eval(), items, noise) for m in (model, World({"item_mask": 0.0}).model)
    )
    torch.testing.assert_close(shown, unmasked)
    assert not torch.allclose(shown[0], shown[1])


def test_a_share_of_the_items_is_hidden_in_every_channel_alike() -> None:
    """Channels of equal weights see equal items, so they differ as soon as one hides another."""
    settings = {"item_mask": 0.3, "interest_centers": False, "mu_id": 0.0, "num_neighbors": 0}
    model = World(settings).model.train()
    for name in HAS:
        model.encoders[module_key(name)].load_state_dict(model.encoders["id"].state_dict())
    items, noise = torch.randint(0, X, (300, 8)), torch.zeros(300, 8, 2, K)
    queries = _queries(model, items, noise)
    fused, text, image = queries.unbind(dim=2)
    torch.testing.assert_close(text, image)
    torch.testing.assert_close(fused, 2 * text)  # its own, and rho = 1/2 of each of the others
    first = _queries(model.eval(), items, noise)[:, 0]  # of the only item that it sees
    unhidden = (queries[:, 0] - first).abs().amax(dim=(1, 2)) < 1e-4
    assert unhidden.float().mean().item() == pytest.approx(0.7, abs=0.08)


def test_delta_of_one_half_is_no_noise() -> None:
    world = World({})
    batch, _ = world.batch()
    items = batch.items[batch.place]
    half = torch.full_like(batch.noise, 0.5).logit()
    queries = _queries(world.model.eval(), items, half)
    lengths = torch.tensor([len(s) for s in SEQUENCES])
    last = [queries[user, n - 2] for user, n in enumerate(lengths)]
    whole = world.model.user_vectors(items, lengths - 1, world.model.item_vectors())
    torch.testing.assert_close(torch.stack(last), whole)


def test_every_event_after_the_first_is_a_target_once_with_the_most_history() -> None:
    lengths = np.array([1, 2, 5, 9, 30, 0])
    events = np.concatenate([100 * user + np.arange(n) for user, n in enumerate(lengths)])
    samples = windows_of(events, np.cumsum(lengths) - lengths, lengths, max_length=8)
    targets = []
    for start, stop, first in zip(
        samples.starts, samples.stops, samples.first_counted, strict=True
    ):
        assert stop - start <= 8
        for position in range(start + first, stop):
            targets.append(int(events[position + 1]))
            history = position + 1 - start
            assert history == events[position] % 100 + 1 or history > 4
    expected = [100 * user + n for user, length in enumerate(lengths) for n in range(1, length)]
    assert sorted(targets) == expected


def test_ranks_take_slices_that_together_are_the_step() -> None:
    world = World({})
    whole, _ = world.batch()
    lengths = np.array([len(s) for s in SEQUENCES])
    samples = windows_of(np.concatenate(SEQUENCES), np.cumsum(lengths) - lengths, lengths, 8)
    step = Step(samples, int(samples.num_prefixes.sum()))
    noise = world.noise(step.num_prefixes)
    for world_size in (2, 3, 7):
        parts = [batch_of(step, rank, world_size, noise, CPU) for rank in range(world_size)]
        losses = sum(world.model(part) for part in parts)
        torch.testing.assert_close(losses, world.model(whole), atol=1e-4, rtol=1e-5)
        assert sum(len(part.targets) for part in parts) == step.num_prefixes


def test_samples_are_chosen_by_index() -> None:
    samples = Samples(np.arange(9), np.array([0, 4]), np.array([3, 8]), np.array([0, 2]))
    assert samples[np.array([1])].num_prefixes.tolist() == [2]
