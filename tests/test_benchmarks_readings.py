"""The other reading of the interest centers equals a plain form, one history at a time."""

import math

import numpy as np
import pytest
import torch
from mdsrec_world import SEQUENCES, D, K, World
from torch.nn import functional as F

from benchmarks.readings import BlockCenters, Centers, _spread_and_mixed
from training.inference import padded
from training.models.mdsrec.items import module_key
from training.models.mdsrec.model import Prefixes

NAME = "benchmarks.readings:BlockCenters"


@pytest.fixture(params=[False, True], ids=["all centers", "own clusters"])
def model(request):
    world = World({"name": NAME, "own_clusters": request.param})
    model = BlockCenters(world.experiment, world.tables)
    model.load_state_dict(world.model.state_dict())
    return world, model.eval()


@pytest.mark.parametrize("history", [SEQUENCES[0], SEQUENCES[2], [9]], ids=["5", "7", "1"])
def test_the_centers_of_a_history_equal_the_plain_form(model, history):
    world, readings = model
    items = readings.item_vectors()
    batch = padded([np.array(history, dtype=np.int32)], 8)
    index = torch.arange(len(history))[None]
    ends = torch.tensor([[len(history) - 1]])
    positions = readings.position_embedding[: len(history)]
    tokens = items.tokens(batch[0].flatten())[1] + positions
    encoder = readings.encoders[module_key("text")]
    prefixes = Prefixes(batch[0].flatten(), index, ends, torch.tensor([0]))
    e, found = readings.centers_of(0, tokens[None], items.centers[0], prefixes)
    clusters = [int(np.flatnonzero(world.C["text"][:, item].numpy())[0]) for item in history]
    own = readings.config.own_clusters
    expected = sorted(set(clusters)) if own else list(range(K))
    assert len(found.states) == len(expected)
    logits = []
    for cluster in expected:
        seen = [at for at, other in enumerate(clusters) if not own or other == cluster]
        state = plain_among(encoder, tokens, items.centers[0][cluster], seen)
        [row] = [
            r for r in range(len(expected)) if torch.allclose(found.states[r], state, atol=1e-5)
        ]
        logits.append((row, (e[0, 0] @ state).item() / math.sqrt(D)))
    gamma = torch.softmax(torch.tensor([logit for _, logit in logits]), dim=0)
    for (row, _), weight in zip(logits, gamma, strict=True):
        torch.testing.assert_close(found.gamma[row], weight)


def plain_among(encoder, tokens, center, seen):
    """Return a center that attends to the tokens at the places `seen` of every layer."""
    x, state = encoder.norm(tokens), encoder.norm(center)
    for block in encoder.blocks:
        queries, keys, values = (
            part.view(-1, block.num_heads, D // block.num_heads).transpose(0, 1)
            for part in (block.query(state[None]), block.key(x[seen]), block.value(x[seen]))
        )
        weights = torch.softmax(queries @ keys.mT / math.sqrt(D // block.num_heads), dim=-1)
        attended = block.output((weights @ values).transpose(0, 1).reshape(-1))
        after = block.attention_norm(state + attended)
        state = block.feedforward_norm(after + block.outer(F.gelu(block.inner(after))))
        x = block.tokens_keys_values(x[None], None, None)[0][0]
    return state


def test_training_and_ranking_give_a_prefix_the_same_query(model):
    world, readings = model
    batch, _ = world.batch()
    seen = []
    readings.queries, plain = lambda *a: seen.append(plain(*a)) or seen[-1], readings.queries
    readings(batch)
    items = readings.item_vectors()
    for user, sequence in enumerate(SEQUENCES):
        history = padded([np.array(sequence[:1], dtype=np.int32)], 8)
        alone = readings.user_vectors(*history, items)[0]
        torch.testing.assert_close(seen[0][user, 0], alone, atol=1e-5, rtol=1e-5)


def test_no_tensor_is_made_on_another_device_than_the_model_and_the_batch(model):
    """A tensor without a device goes to the default one, here one that cannot meet the CPU."""
    world, readings = model
    batch, _ = world.batch()
    readings.config = readings.config.model_copy(update={"dropout": 0.1})
    assert {name for name, _ in readings.named_buffers()} >= {"clusters_0", "clusters_1"}
    assert not [name for name in readings.state_dict() if name.startswith("clusters")]
    histories = padded([np.array(sequence, dtype=np.int32) for sequence in SEQUENCES], 8)
    items = readings.item_vectors()

    def results():
        torch.manual_seed(0)
        return readings.train()(batch), readings.eval().user_vectors(*histories, items)

    expected = results()
    with torch.device("meta"):
        found = results()
    assert all(map(torch.equal, found, expected))


def test_the_spread_is_that_of_two_points_around_their_mean():
    states = torch.tensor([[3.0, 1.0], [3.0, -1.0], [2.0, 0.0]])
    centers = Centers(torch.tensor([0, 0, 1]), states, torch.tensor([0.5, 0.5, 1.0]))
    found = _spread_and_mixed(centers, 2)
    torch.testing.assert_close(found, torch.tensor([[1 / 3, 0.0], [2.0, 1.0], [2.0, 1.0]]))
