"""MDSRec computes the equations of its paper: it equals the oracle, a plain float64 form."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from mdsrec_world import CPU, HAS, SEQUENCES, SETTINGS, D, K, World, X
from torch import Tensor

from training import validation
from training.data.batch import batch_of
from training.data.windows import Samples, windows_of
from training.inference import padded, user_vectors
from training.models.mdsrec.items import module_key
from training.models.mdsrec.model import MDSRec, Prefixes


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_loss_and_gradients_equal_those_of_the_oracle(settings: dict[str, Any]) -> None:
    world = World(settings)
    batch, num_prefixes = world.batch()
    loss = world.model.channel_weights @ world.model(batch) / num_prefixes
    loss.backward()
    oracle, params = world.oracle()
    expected = oracle.loss(SEQUENCES, world.oracle_noise())
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for name, parameter in world.model.named_parameters():
        torch.testing.assert_close(
            gradient_of(parameter).double(),
            gradient_of(params[name]),
            atol=1e-5,
            rtol=1e-4,
            msg=name,
        )


def gradient_of(parameter: Tensor) -> Tensor:
    """Return the gradient, zeros if no path leads to the loss."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_scores_equal_those_of_the_oracle(settings: dict[str, Any]) -> None:
    world = World(settings)
    oracle, _ = world.oracle()
    histories = [np.array(s, dtype=np.int32) for s in SEQUENCES]
    items = world.model.eval().item_vectors()
    queries = world.model.user_vectors(*padded(histories, 8), items)
    channels = torch.einsum("bcd,cxd->bcx", queries, items.vectors)
    whole = torch.einsum("bcx,c->bx", channels, world.model.channel_weights)
    for user, history in enumerate(SEQUENCES):
        expected = oracle.logits(history)
        found = dict(zip(("fused", *world.experiment.modalities), channels[user], strict=True))
        for channel, scores in {**found, "all": whole[user]}.items():
            torch.testing.assert_close(scores.double(), expected[channel], atol=1e-5, rtol=1e-5)


def test_of_a_long_history_only_the_last_max_length_events_count() -> None:
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


def test_vectors_of_users_do_not_depend_on_the_other_users() -> None:
    model = World({}).model.eval()
    histories = [np.arange(n, dtype=np.int32) % X for n in (3, 12, 1, 7, 1, 2, 9, 5, 4, 6, 8)]
    items = model.item_vectors()
    together = user_vectors(model, histories, items)
    for history, vector in zip(histories, together, strict=True):
        [by_itself] = model.user_vectors(*padded([history], 8), items)
        torch.testing.assert_close(vector, by_itself, atol=1e-5, rtol=1e-5)
    assert user_vectors(model, [], items).shape == (0, 3, D)


@pytest.mark.parametrize("count", [0, 1, 3, 30])
def test_validation_calls_the_model_equally_often_for_any_number_of_users(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under ZeRO-3 every rank must, whatever users it has."""
    model = World({"max_length": 20}).model.eval()
    items, calls, encode = model.item_vectors(), [], model.user_vectors

    def counted(items_BT: Tensor, *rest: Any, **named: Any) -> Tensor:
        calls.append(items_BT)
        return encode(items_BT, *rest, **named)

    monkeypatch.setattr(model, "user_vectors", counted)
    histories = [np.arange(1 + n, dtype=np.int32) % X for n in range(count)]
    with torch.no_grad():
        encode_all = partial(model.user_vectors, item_vectors=items)
        vectors = validation.encode_in_groups(histories, model, encode_all, items.vectors)
    assert len(calls) == validation.GROUPS
    expected = user_vectors(model, histories, items)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)


def test_later_items_do_not_change_a_prefix() -> None:
    world = World({})
    batch, _ = world.batch()
    items = batch.items[batch.item_index]
    before = _queries(world.model, items, batch.noise)
    later = items.clone()
    later[:, 3:] = (later[:, 3:] + 1) % X
    after = _queries(world.model, later, batch.noise)
    torch.testing.assert_close(after[:, :3], before[:, :3], atol=0, rtol=0)
    assert not torch.allclose(after[:, 3:], before[:, 3:])


def _queries(model: MDSRec, items_BT: Tensor, noise: Tensor) -> Tensor:
    """Return the queries of all prefixes."""
    items = model.item_vectors()
    ends_BT = torch.arange(items_BT.shape[1]).expand_as(items_BT)
    prefixes = Prefixes(torch.arange(X), items_BT, ends_BT, torch.arange(items_BT.numel()))
    return model.queries(items.tokens(torch.arange(X)), items.centers, prefixes, noise)


def test_of_an_item_that_training_hides_only_the_position_is_left() -> None:
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


def test_the_same_share_of_items_is_hidden_in_every_channel() -> None:
    """With equal weights all channels are equal, unless one hides an item that another shows."""
    settings = {"item_mask": 0.3, "interest_centers": False, "mu_id": 0.0, "num_neighbors": 0}
    model = World(settings).model.train()
    for name in HAS:
        model.encoders[module_key(name)].load_state_dict(model.encoders["id"].state_dict())
    items, noise = torch.randint(0, X, (300, 8)), torch.zeros(300, 8, 2, K)
    queries = _queries(model, items, noise)
    fused, text, image = queries.unbind(dim=2)
    torch.testing.assert_close(text, image)
    torch.testing.assert_close(fused, 2 * text)  # e^id + (e^text + e^image) / 2
    first = _queries(model.eval(), items, noise)[:, 0]  # prefixes of one item, never hidden
    shown = (queries[:, 0] - first).abs().amax(dim=(1, 2)) < 1e-4
    assert shown.float().mean().item() == pytest.approx(0.7, abs=0.08)


def test_noise_of_delta_one_half_equals_no_noise() -> None:
    world = World({})
    batch, _ = world.batch()
    items = batch.items[batch.item_index]
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


def test_losses_of_the_ranks_sum_to_the_loss_of_the_step() -> None:
    world = World({})
    whole, _ = world.batch()
    step = world.step()
    noise = world.noise(step.num_prefixes)
    for world_size in (2, 3, 7):
        parts = [batch_of(step, rank, world_size, noise, CPU) for rank in range(world_size)]
        losses = sum(world.model(part) for part in parts)
        torch.testing.assert_close(losses, world.model(whole), atol=1e-4, rtol=1e-5)
        assert sum(len(part.targets) for part in parts) == step.num_prefixes


def test_samples_are_selected_by_index() -> None:
    samples = Samples(np.arange(9), np.array([0, 4]), np.array([3, 8]), np.array([0, 2]))
    assert samples[np.array([1])].num_prefixes.tolist() == [2]
