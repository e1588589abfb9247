"""Every baseline scores by the equations of its paper.

They are written here in plain form: in float64, one history at a time, with loops for sums.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_dataset import NUM_ITEMS, small_experiment, write_dataset
from small_models import experiment_of, perturbed_model, scores_of
from torch import Tensor
from torch.nn import functional as F

from mdsrec.config import Experiment
from training.data.batch import batch_of
from training.data.item_tables import ItemTables, load_item_tables
from training.data.sequences import SequenceReader
from training.layers.features import whiten
from training.models.bert4rec import BERT4Rec

HISTORIES = [[3], [7, 2], [5, 5, 9, 1], [0, 30, 12, 3, 17, 39], [20, 1, 2, 3, 4, 5, 6, 7]]
CPU = torch.device("cpu")

Parameters = dict[str, Tensor]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


class PlainModel:
    """Parameters of a model in float64, and the layers that the equations use."""

    def __init__(self, parameters: Parameters, experiment: Experiment, tables: ItemTables) -> None:
        self.p, self.config, self.tables = parameters, experiment.model, tables

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        unit = centered / (centered.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return unit * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def attention(self, names: list[str], x: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        """Attend from each row of x to the rows of `memory` that it has `seen`, head by head."""
        query, key, value, output = names
        q, k, v = self.linear(query, x), self.linear(key, memory), self.linear(value, memory)
        d = x.shape[1] // self.config.num_heads
        heads = []
        for first in range(0, x.shape[1], d):
            head = slice(first, first + d)
            scores = q[:, head] @ k[:, head].T / d**0.5
            heads.append(torch.softmax(scores.masked_fill(~seen, -torch.inf), 1) @ v[:, head])
        return self.linear(output, torch.cat(heads, 1))

    def encoder(self, name: str, x: Tensor, seen: Tensor) -> Tensor:
        x, layer = self.norm(f"{name}.norm", x), 0
        while f"{name}.blocks.{layer}.query.weight" in self.p:
            of = f"{name}.blocks.{layer}"
            names = [f"{of}.{part}" for part in ("query", "key", "value", "output")]
            x = self.norm(f"{of}.attention_norm", x + self.attention(names, x, x, seen))
            inner = F.gelu(self.linear(f"{of}.inner", x))
            x = self.norm(f"{of}.feedforward_norm", x + self.linear(f"{of}.outer", inner))
            layer += 1
        return x

    def gru(self, name: str, xs: Tensor) -> Tensor:
        """Return the states of the last layer; r, z and n are in the order of torch's weights."""
        layer = 0
        while (into := self.p.get(f"{name}.weight_ih_l{layer}")) is not None:
            within, states = self.p[f"{name}.weight_hh_l{layer}"], []
            h = torch.zeros(within.shape[1], dtype=torch.float64)
            for x in xs:
                r_x, z_x, n_x = (into @ x).chunk(3)
                r_h, z_h, n_h = (within @ h).chunk(3)
                r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
                h = (1 - z) * torch.tanh(n_x + r * n_h) + z * h
                states.append(h)
            xs, layer = torch.stack(states), layer + 1
        return xs

    def features(self) -> list[Tensor]:
        """Return the vectors of all items mapped to D, zeros without one, for each modality."""
        features = []
        for index, modality in enumerate(self.tables.modalities.values()):
            assert modality.features is not None
            vectors = modality.features.double()
            mapped = self.linear(f"features.maps.{index}", vectors)
            mapped[(vectors == 0).all(1)] = 0
            features.append(mapped)
        return features

    def with_positions(self, vectors: Tensor, history: list[int]) -> Tensor:
        return vectors[history] + self.p["position_embedding"][: len(history)]


def causal(size: int) -> Tensor:
    """Return the mask of positions that each position of a sequence sees."""
    return torch.ones(size, size, dtype=torch.bool).tril()


def sasrec(m: PlainModel, history: list[int]) -> Tensor:
    E = m.p["item_embedding"]
    x = m.encoder("encoder", m.with_positions(E, history), causal(len(history)))
    return E @ x[-1]


def gru4rec(m: PlainModel, history: list[int]) -> Tensor:
    E = m.p["item_embedding"]
    return E @ m.linear("output", m.gru("gru", E[history])[-1])


def bert4rec(m: PlainModel, history: list[int]) -> Tensor:
    E, mask = m.p["item_embedding"], m.p["mask_embedding"]
    x = torch.cat([E[history], mask]) + m.p["position_embedding"][: len(history) + 1]
    x = m.encoder("encoder", x, torch.ones(len(x), len(x), dtype=torch.bool))[-1]
    h = m.norm("output.2", F.gelu(m.linear("output.0", x)))
    return E @ h + m.p["item_bias"]


def sasrecf(m: PlainModel, history: list[int]) -> Tensor:
    E = m.p["item_embedding"]
    tokens = m.linear("together", torch.cat([E, *m.features()], 1))
    return E @ m.encoder("encoder", m.with_positions(tokens, history), causal(len(history)))[-1]


def gru4recf(m: PlainModel, history: list[int]) -> Tensor:
    E = m.p["item_embedding"]
    h = m.gru("item_gru", E[history])[-1]
    g = m.gru("feature_gru", torch.cat(m.features(), 1)[history])[-1]
    return E @ m.linear("output", torch.cat([h, g]))


def fdsa(m: PlainModel, history: list[int]) -> Tensor:
    E, features = m.p["item_embedding"], m.features()
    f = torch.zeros_like(E)
    for item in range(len(E)):
        logits = [
            m.linear("attention.2", F.relu(m.linear("attention.0", F_m[item]))) for F_m in features
        ]
        alpha = torch.softmax(torch.cat(logits), 0)
        f[item] = sum(a * F_m[item] for a, F_m in zip(alpha, features, strict=True))
    seen = causal(len(history))
    h = m.encoder("item_encoder", m.with_positions(E, history), seen)[-1]
    g = m.encoder("feature_encoder", m.with_positions(f, history), seen)[-1]
    return E @ m.norm("norm", m.linear("together", torch.cat([h, g])))


def unisrec(m: PlainModel, history: list[int]) -> Tensor:
    v = m.p["item_embedding"].clone()
    for index, modality in enumerate(m.tables.modalities.values()):
        x = whiten(modality.features).double()
        adaptor = f"adaptors.{index}"
        g = torch.softmax(x @ m.p[f"{adaptor}.gate.weight"].T, 1)
        for item in range(len(x)):
            if modality.features[item].any():
                for e, (b, W) in enumerate(
                    zip(m.p[f"{adaptor}.center"], m.p[f"{adaptor}.expert"], strict=True)
                ):
                    v[item] += g[item, e] * ((x[item] - b) @ W)
    x = m.encoder("encoder", m.with_positions(v, history), causal(len(history)))[-1]
    return F.cosine_similarity(v, x[None], dim=1) / m.config.temperature


def mmmlp(m: PlainModel, history: list[int]) -> Tensor:
    E, T = m.p["item_embedding"], len(history)
    streams = []
    for number, table in enumerate([E, *m.features()]):
        x = m.norm(f"mixers.{number}.norm", table[history])
        for layer in range(m.config.num_layers):
            along_T, along_D = (f"mixers.{number}.layers.{2 * layer + i}" for i in (0, 1))
            y, W1, W2 = (
                m.norm(f"{along_T}.norm", x),
                m.p[f"{along_T}.inner"],
                m.p[f"{along_T}.outer"],
            )
            b1 = m.p[f"{along_T}.inner_bias"].view(len(W1), 4)
            mixed = torch.zeros_like(x)
            for t in range(T):
                mixed[t] += m.p[f"{along_T}.outer_bias"][t]
                for s in range(t + 1):
                    for j in range(4):
                        hidden = sum(W1[s, j, u] * y[u] for u in range(s + 1)) + b1[s, j]
                        mixed[t] += W2[t, s, j] * F.gelu(hidden)
            x = x + mixed
            inner = F.gelu(m.linear(f"{along_D}.inner", m.norm(f"{along_D}.norm", x)))
            x = x + m.linear(f"{along_D}.outer", inner)
        streams.append(x[-1])
    fused = m.linear("together", m.norm("norm", torch.cat(streams)))
    return E @ m.norm("last_norm", fused)


def missrec(m: PlainModel, history: list[int]) -> Tensor:
    E, adapted, interests, interest_of = m.p["item_embedding"], [], [], []
    for index, modality in enumerate(m.tables.modalities.values()):
        v = m.linear(f"adaptors.{index}.feature_map", whiten(modality.features).double())
        v[(modality.features == 0).all(1)] = 0
        adapted.append(v)
        members = modality.membership
        clusters = [
            members.columns[a:b] for a, b in zip(members.starts, members.starts[1:], strict=False)
        ]
        interests.append(torch.stack([v[c.astype(int)].mean(0) for c in clusters]))
        interest_of.append({int(item): k for k, c in enumerate(clusters) for item in c})
    # The first row of the memory is the vector of no interest, which every position sees.
    memory, since, present = [m.p["no_interest"][0]], [-1], set()
    for t, item in enumerate(history):
        for index, of_item in enumerate(interest_of):
            if item in of_item and (index, of_item[item]) not in present:
                present.add((index, of_item[item]))
                memory.append(interests[index][of_item[item]])
                since.append(t)
    first_seen = torch.tensor(since)  # interests of the same item see each other
    memory = m.encoder("encoder", torch.stack(memory), first_seen <= first_seen[:, None])
    x = m.norm("decoder.norm", m.with_positions(E + sum(adapted), history))
    layer = "decoder.layers.0"
    for norm, part in enumerate(("own", "interests")):
        names = [f"{layer}.{part}.{name}" for name in ("query", "key", "value", "output")]
        if part == "own":
            attended = m.attention(names, x, x, causal(len(history)))
        else:
            seen = first_seen <= torch.arange(len(history))[:, None]
            attended = m.attention(names, x, memory, seen)
        x = m.norm(f"{layer}.norms.{norm}", x + attended)
    inner = F.gelu(m.linear(f"{layer}.inner", x))
    x = m.norm(f"{layer}.norms.2", x + m.linear(f"{layer}.outer", inner))
    scores = F.cosine_similarity(E, x[-1:], dim=1)
    for item in range(len(E)):
        has = [index for index, of_item in enumerate(interest_of) if item in of_item]
        weights = torch.softmax(m.p["fusion"][item, has], 0)
        for w, index in zip(weights, has, strict=True):
            cosine = F.cosine_similarity(adapted[index][item], x[-1], dim=0)
            scores[item] += len(adapted) * w * cosine
    return scores / (1 + len(adapted)) / m.config.temperature


PLAIN: dict[str, Callable[[PlainModel, list[int]], Tensor]] = {
    "sasrec": sasrec,
    "gru4rec": gru4rec,
    "bert4rec": bert4rec,
    "sasrecf": sasrecf,
    "gru4recf": gru4recf,
    "fdsa": fdsa,
    "unisrec": unisrec,
    "mmmlp": mmmlp,
    "missrec": missrec,
}


@pytest.mark.parametrize("name", PLAIN)
def test_scores_equal_those_of_the_plain_equations(root: Path, name: str) -> None:
    experiment = experiment_of(root, name)
    model = perturbed_model(experiment)
    parameters = {key: value.detach().double() for key, value in model.named_parameters()}
    plain = PlainModel(parameters, experiment, load_item_tables(experiment))
    longest = experiment.model.max_length
    expected = torch.stack([PLAIN[name](plain, history[-longest:]) for history in HISTORIES])
    assert expected.shape == (len(HISTORIES), NUM_ITEMS)
    torch.testing.assert_close(scores_of(model, HISTORIES).double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("mask_share", "last_share"), [(0.4, 0.0), (0.2, 0.5), (0.0, 0.0)])
def test_bert4rec_predicts_the_masked_items_from_the_rest(
    root: Path, mask_share: float, last_share: float
) -> None:
    model_keys = {"mask_share": mask_share, "last_share": last_share, "max_length": 4}
    experiment = experiment_of(root, "bert4rec", model=model_keys)
    model, step = perturbed_model(experiment), next(SequenceReader(experiment).steps(0))
    assert isinstance(model, BERT4Rec)
    noise = model.draw_noise(step.samples.num_prefixes, torch.Generator().manual_seed(0))
    [loss] = model(batch_of(step, 0, 1, noise, CPU))
    parameters = {key: value.detach().double() for key, value in model.named_parameters()}
    m = PlainModel(parameters, experiment, load_item_tables(experiment))
    E, weights, losses, prefix = m.p["item_embedding"], noise[:, 0].tolist(), [], 0
    samples = step.samples
    for start, stop, first in zip(
        samples.starts, samples.stops, samples.first_counted, strict=True
    ):
        events = samples.events[start : stop + 1]
        targets = range(first + 1, len(events))
        masked = [t for t in targets if weights[prefix + t - first - 1] > 0]
        prefix += len(targets)
        assert masked, "every sample has a masked target"
        x = E[events].clone()
        x[masked] = m.p["mask_embedding"]
        x = x + m.p["position_embedding"][: len(events)]
        x = m.encoder("encoder", x, torch.ones(len(events), len(events), dtype=torch.bool))
        h = m.norm("output.2", F.gelu(m.linear("output.0", x)))
        for t in masked:
            logits = E @ h[t] + m.p["item_bias"]
            losses.append(F.cross_entropy(logits, torch.tensor(events[t])))
    expected = torch.stack(losses).mean() * step.num_prefixes
    torch.testing.assert_close(loss.double(), expected, atol=1e-3, rtol=1e-5)


def test_bert4rec_masks_the_configured_share(root: Path) -> None:
    counts = np.full(500, 20)
    for mask_share, last_share, expected in ((0.3, 0.0, 0.3), (0.3, 0.999, 1 / 20)):
        keys = {"mask_share": mask_share, "last_share": last_share}
        model = perturbed_model(experiment_of(root, "bert4rec", model=keys))
        weights = model.draw_noise(counts, torch.Generator().manual_seed(0))[:, 0]
        assert float((weights > 0).float().mean()) == pytest.approx(expected, abs=0.02)
        assert float(weights.sum()) == pytest.approx(counts.sum())
        assert weights[weights > 0].unique().numel() == 1


def test_whitened_vectors_have_mean_zero_and_covariance_one() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(200, 5, generator=generator) @ torch.randn(5, 5, generator=generator) + 3
    vectors[7] = 0
    white = whiten(vectors)
    assert not white[7].any()
    rest = torch.cat([white[:7], white[8:]])
    torch.testing.assert_close(rest.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(rest.T @ rest / len(rest), torch.eye(5), atol=1e-3, rtol=0)


def test_a_direction_without_variance_does_not_grow_when_whitened() -> None:
    vectors: Any = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    vectors[:, 2] = 1 + 1e-6 * vectors[:, 2]
    assert whiten(vectors).abs().max() < 10
