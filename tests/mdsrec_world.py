"""A tiny random data set for MDSRec: tables of the model beside dense matrices of the oracle."""

from typing import Any

import numpy as np
import oracle as plain
import torch
from reference_tables import adjacency, membership, normalized_scores, sparse_matrix
from small_dataset import PAPER
from torch import Tensor

from mdsrec.config import Experiment, MDSRecConfig
from training.data.batch import Batch, batch_of
from training.data.item_tables import ItemTables, ModalityTables
from training.data.windows import Samples, Step, windows_of
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
    "no neighbors": {"num_neighbors": 0},
    "no neighbors, without self": {"num_neighbors": 0, "include_self": False},
    "three layers, one head": {"num_layers": 3, "num_heads": 1},
    "projected centers": {"num_layers": 3, "num_heads": 6},
    "unequal rho, cold": {"rho": {"text": 0.9, "image": 0.1}, "tau": 0.3},
    "cosines": {"temperature": 0.2},
    "cosines, w/o MRGC": {"temperature": 0.2, "item_graph": False},
    "w/o DIS": {"graph.distance": False},
    "w/o CRE in the sequence": {"mu_id": 0.0},
    "w/o MRGC": {"item_graph": False},
    "w/o ICA": {"interest_centers": False},
    "w/o MRGC and ICA": {"item_graph": False, "interest_centers": False},
    "only ids": {"modalities": []},
    "only text": {"modalities": ["text"]},
}
"""Keys of [model], and of [graph] where they begin with "graph."."""


def world_experiment(settings: dict[str, Any]) -> Experiment:
    """Return an experiment of this data set with some settings of `SETTINGS`."""
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
            "model": {
                **PAPER,
                **shape,
                "num_neighbors": H,
                "num_centers": K,
                "mu_id": 1.5,
                **model,
            },
        }
    )


class World:
    """The data set, a model on its tables, and the oracle on its dense matrices."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.experiment = e = world_experiment(settings)
        assert isinstance(e.model, MDSRecConfig)
        self.config = e.model
        O = plain.cooccurrence(SEQUENCES, X, e.graph.distance)  # noqa: E741
        rows, columns = (i.astype(np.int64) for i in np.nonzero(O.numpy()))
        scores = normalized_scores(rows, columns, O.numpy()[rows, columns], e.graph.normalize)
        self.N_O = plain.normalized(O, e.graph.normalize)
        self.Ahat: dict[str, Tensor] = {}
        self.C: dict[str, Tensor] = {}
        self.features: dict[str, Tensor] = {}
        generator = np.random.default_rng(0)
        modalities = {m: self._add_modality(m, generator) for m in e.modalities}
        self.tables = ItemTables(X, sparse_matrix(rows, columns, scores, X), modalities, {})
        self.model = MDSRec(e, self.tables)
        self.model.initialize(seed=1)
        with torch.no_grad():  # large enough that every term of every equation matters
            torch.manual_seed(0)
            for parameter in self.model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)

    def _add_modality(self, m: str, generator: np.random.Generator) -> ModalityTables:
        """Draw features, set the oracle's matrices and return the model's tables."""
        config, has = self.config, np.isin(np.arange(X), HAS[m])
        items, present = np.flatnonzero(has), torch.tensor(has)
        vectors = torch.from_numpy(generator.normal(size=(X, 7)) * has[:, None])
        lists = plain.neighbors(plain.smoothed(vectors, self.N_O, 0.2), present, H + 1)
        centers = np.arange(len(items)) % K
        center_of_item: list[int | None] = [None] * X
        for item, center in zip(items, centers, strict=True):
            center_of_item[item] = int(center)
        self.Ahat[m] = plain.adjacency(lists, config.num_neighbors, present, config.include_self)
        self.C[m] = plain.membership(center_of_item, K)
        self.features[m] = vectors.float().double()
        graph = None
        if config.item_graph:
            lengths = np.array([len(lists[i]) for i in items])
            flat = np.concatenate([np.array(lists[i], dtype=np.int64) for i in items])
            graph = adjacency(items, lengths, flat, X, config.num_neighbors, config.include_self)
        return ModalityTables(
            graph,
            None if config.item_graph else vectors.float(),
            membership(items, centers, K) if config.interest_centers else None,
        )

    def oracle(self) -> tuple[plain.Oracle, dict[str, Tensor]]:
        """Return the oracle at the model's parameters, and these by the model's names."""
        params = {
            name: p.detach().double().requires_grad_() for name, p in self.model.named_parameters()
        }
        modalities = self.experiment.modalities
        rho = {m: self.experiment.model.rho_of(m, len(modalities)) for m in modalities}
        by_oracle_name = {oracle_name(name): p for name, p in params.items()}
        oracle = plain.Oracle(
            by_oracle_name, self.config, rho, self.N_O, self.Ahat, self.C, self.features
        )
        return oracle, params

    def samples(self) -> Samples:
        """Return the windows of all sequences."""
        lengths = np.array([len(s) for s in SEQUENCES])
        starts = np.cumsum(lengths) - lengths
        return windows_of(np.concatenate(SEQUENCES), starts, lengths, self.config.max_length)

    def step(self) -> Step:
        """Return a step of all sequences."""
        samples = self.samples()
        return Step(samples, int(samples.num_prefixes.sum()))

    def batch(self) -> tuple[Batch, int]:
        """Return a batch of all sequences, and its number of prefixes."""
        step = self.step()
        return batch_of(step, 0, 1, self.noise(step.num_prefixes), CPU), step.num_prefixes

    def noise(self, num_prefixes: int) -> Tensor:
        """Return logit(delta) of the prefixes in order."""
        generator = torch.Generator().manual_seed(5)
        M = len(self.experiment.modalities)
        return torch.rand((num_prefixes, M, K), generator=generator).logit()

    def oracle_noise(self) -> list[list[dict[str, Tensor]]]:
        """Return the same noise by user, prefix and modality."""
        lengths = [len(s) - 1 for s in SEQUENCES]
        rows = iter(self.noise(sum(lengths)).double())
        modalities = self.experiment.modalities
        return [[dict(zip(modalities, next(rows), strict=True)) for _ in range(n)] for n in lengths]


def oracle_name(name: str) -> str:
    """Return the name that the oracle gives to a parameter of the model."""
    name = name.replace("modality_", "")
    if ".center." in name:
        _, m, _, layer, _, *rest = name.split(".")
        return ".".join(["centers", m, layer, *rest])
    if ".feature_map." in name:
        return name.replace("items.constants.", "feature_maps.").replace(".feature_map.", ".")
    return name
