"""MDSRec's Eq. 1-24 in plain form: dense, float64, one prefix at a time: the tests' oracle.

Every prefix is a sequence of its own items and nothing else, run alone through every block, its
interest centres through the projections as they are printed. Nothing is batched, padded, shared
between prefixes or folded together, and dropout is 0; autograd gives the gradients.

Letters: X items, T positions of a prefix, D width, K centres, L layers, m a modality, F the width
of its features. A vector is a row, a parameter pair (weight [out, in], bias [out]) is x W^T + b.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mdsrec.config import MDSRecConfig

LAYER_NORM_EPS = 1e-12  # of every LayerNorm: the encoder's input and both of a block

Noise = Mapping[str, Tensor]
"""logit(delta) [K] of each modality, for one prefix (Eq. 19)."""


# Graphs (Eq. 1-6)


def cooccurrence(sequences: list[list[int]], num_items: int, distance: bool = True) -> Tensor:
    """O -> [X, X], symmetric, zero on the diagonal (Eq. 1-2).

    Every pair of positions p < q that holds two different items adds 1/(q - p), or 1 without
    `distance`. A repeated item counts at each of its positions. Give the training parts only.
    """
    O = torch.zeros(num_items, num_items, dtype=torch.float64)  # noqa: E741
    for items in sequences:
        for q in range(len(items)):
            for p in range(q):
                i, j = items[p], items[q]
                if i != j:
                    weight = 1 / (q - p) if distance else 1.0
                    O[i, j] += weight
                    O[j, i] += weight
    return O


def normalized(O: Tensor, how: str) -> Tensor:  # noqa: E741
    """N(O) -> [X, X]; an item that occurs beside no other keeps its row of zeros.

    row: each row over its sum; symmetric: D^-1/2 O D^-1/2, D the row sums; none: O itself.
    """
    sums = O.sum(dim=1)
    sums = torch.where(sums > 0, sums, torch.ones_like(sums))  # only rows of zeros are touched
    if how == "row":
        return O / sums[:, None]
    if how == "symmetric":
        return O / sums.sqrt()[:, None] / sums.sqrt()[None, :]
    if how == "none":
        return O
    raise ValueError(f"how {how!r} is none of row, symmetric, none")


def smoothed(E: Tensor, O_normalized: Tensor, mu: float) -> Tensor:
    """Ebar = mu N(O) E + E -> the shape of E, [X, F] or [X, D] (Eq. 3)."""
    return mu * (O_normalized @ E) + E


def neighbors(E_smoothed: Tensor, has: Tensor, H: int) -> list[list[int]]:
    """Each item's H most similar others, the most similar first (Eq. 4-5).

    Cosine of the rows of `E_smoothed` [X, F]; ties by item index. An item without the modality
    (`has` [X] is False) has an empty list and stands in nobody's. Fewer than H others: all of them.
    """
    directions = F.normalize(E_smoothed.double(), dim=1, eps=1e-300).tolist()
    present = [i for i, there in enumerate(has.tolist()) if there]

    def cosine(i: int, j: int) -> float:
        products = [a * b for a, b in zip(directions[i], directions[j], strict=True)]
        return math.fsum(products)  # free of summation order, so equal rows tie exactly

    lists: list[list[int]] = [[] for _ in directions]
    for i in present:
        others = sorted((-cosine(i, j), j) for j in present if j != i)
        lists[i] = [j for _, j in others[:H]]
    return lists


def adjacency(neighbors: list[list[int]], H: int, has: Tensor, include_self: bool) -> Tensor:
    """Ahat -> [X, X]: an item's first H neighbours, and itself by `include_self` (Eq. 5-6).

    An item without the modality, or with a row that would be empty, is itself alone, whatever
    `include_self` says.
    """
    num_items = len(neighbors)
    Ahat = torch.zeros(num_items, num_items, dtype=torch.float64)
    for i in range(num_items):
        row = neighbors[i][:H] + ([i] if include_self else [])
        if not bool(has[i]) or not row:
            row = [i]
        for j in row:
            Ahat[i, j] = 1.0
    return Ahat


# Interest centres (Eq. 10-11)


def membership(center_of_item: list[int | None], k: int) -> Tensor:
    """C -> [K, X]: which items a centre averages (Eq. 10-11).

    None: the item lacks the modality and belongs to no centre. An empty centre is a row of zeros.
    """
    C = torch.zeros(k, len(center_of_item), dtype=torch.float64)
    for i, center in enumerate(center_of_item):
        if center is not None:
            C[center, i] = 1 / center_of_item.count(center)
    return C


# The model (Eq. 6-24)


@dataclass(frozen=True)
class Oracle:
    """MDSRec at given parameters; the modalities are the keys of `rho`, in their order.

    `O_id` N(O) [X, X]; `Ahat[m]` [X, X]; `C[m]` [K, X]; `features[m]` [X, F], rows of zeros where
    an item lacks the modality, read only without `item_graph` (as `Ahat` only with it).
    """

    params: Mapping[str, Tensor]
    config: MDSRecConfig
    rho: Mapping[str, float]
    O_id: Tensor
    Ahat: Mapping[str, Tensor]
    C: Mapping[str, Tensor]
    features: Mapping[str, Tensor]

    # Vectors of items

    def item_vectors(self) -> dict[str, Tensor]:
        """What the channels score against: "fused" -> E^id, m -> Ehat^m; each [X, D]."""
        vectors = {"fused": self.params["item_embedding"]}
        for m in self.rho:
            vectors[m] = self._modal_items(m)
        return vectors

    def _modal_items(self, m: str) -> Tensor:
        """Ehat^m = Ahat^m E^id -> [X, D] (Eq. 6); w/o MRGC the features, mapped to D.

        An item without the modality is mapped to zero, not to the map's bias.
        """
        if self.config.item_graph:
            return self.Ahat[m] @ self.params["item_embedding"]
        present = (self.features[m] != 0).any(dim=1)
        return self._linear(f"feature_maps.{m}", self.features[m]) * present[:, None]

    # One sequence (Eq. 7-9)

    def _states(self, channel: str, items: list[int]) -> list[Tensor]:
        """x^0 ... x^L, each [T, D], of the encoder `channel` ("id" or a modality) (Eq. 7-9)."""
        if channel == "id":
            E_id = self.params["item_embedding"]
            vectors = smoothed(E_id, self.O_id, self.config.mu_id)
        else:
            vectors = self._modal_items(channel)
        P = self.params["position_embedding"]
        x = self._layer_norm(f"encoders.{channel}.norm", vectors[items] + P[: len(items)])
        states = [x]
        for layer in range(self.config.num_layers):
            x = self._block(f"encoders.{channel}.blocks.{layer}", x)
            states.append(x)
        return states

    def _block(self, block: str, x: Tensor) -> Tensor:
        """One causal post-norm Transformer block, [T, D] -> [T, D] (Eq. 8)."""
        causal = torch.ones(len(x), len(x), dtype=torch.bool).tril()
        x = self._layer_norm(f"{block}.attention_norm", x + self._attention(block, x, x, causal))
        inner = F.gelu(self._linear(f"{block}.inner", x))
        outer = self._linear(f"{block}.outer", inner)
        return self._layer_norm(f"{block}.feedforward_norm", x + outer)

    def _attention(self, block: str, queries: Tensor, tokens: Tensor, visible: Tensor) -> Tensor:
        """[heads] U -> [Q, D]: `queries` [Q, D] attend to `tokens` [T, D] (Eq. 12-14).

        `visible` [Q, T] says which token a query may see. Heads are contiguous slices of D.
        """
        q = self._linear(f"{block}.query", queries)
        k = self._linear(f"{block}.key", tokens)
        v = self._linear(f"{block}.value", tokens)
        width = self.config.dim // self.config.num_heads
        heads = []
        for h in range(self.config.num_heads):
            head = slice(h * width, (h + 1) * width)
            scores = q[:, head] @ k[:, head].T / math.sqrt(width)
            a = scores.masked_fill(~visible, -math.inf).softmax(dim=1)  # Eq. 12
            heads.append(a @ v[:, head])  # Eq. 13
        return self._linear(f"{block}.output", torch.cat(heads, dim=1))  # Eq. 14

    def layer_centers(self, m: str, states: list[Tensor]) -> list[Tensor]:
        """c^0 ... c^L, each [K, D], of the prefix whose states x^0 ... x^L are given (Eq. 11-16).

        At layer l the centres query every token of x^{l-1} with the block's own Q, K, V and U.
        """
        c = self.C[m] @ self._modal_items(m)  # Eq. 11
        centers = [c]
        for layer in range(self.config.num_layers):
            tokens = states[layer]  # the input of this block
            everything = torch.ones(len(c), len(tokens), dtype=torch.bool)
            g = self._attention(f"encoders.{m}.blocks.{layer}", c, tokens, everything)
            first = self._linear(f"centers.{m}.{layer}.first", g)
            c = F.gelu(self._linear(f"centers.{m}.{layer}.second", first))  # Eq. 15
            centers.append(c)
        return centers

    # One prefix (Eq. 16-22)

    def prefix(self, items: list[int], noise: Noise | None = None) -> dict[str, Tensor]:
        """Representations: "fused" -> e_s (Eq. 17), m -> etilde^m (Eq. 18-19), each [D].

        Only the last `max_length` items count, at positions from 0. Noise None equals delta = 1/2.
        """
        if not items:
            raise ValueError("a prefix holds at least one item")
        items = items[-self.config.max_length :]
        fused = self._states("id", items)[-1][-1]
        modal = {}
        for m in self.rho:
            states = self._states(m, items)
            e = states[-1][-1]
            fused = fused + self.rho[m] * e  # Eq. 17
            modal[m] = e
            if self.config.interest_centers:
                c = self.layer_centers(m, states)[-1]  # Eq. 16
                logit_delta = 0.0 if noise is None else noise[m]
                gamma = ((logit_delta + c @ e) / self.config.tau).softmax(dim=0)  # Eq. 19
                modal[m] = e + gamma @ c  # Eq. 18
        return {"fused": fused, **modal}

    def logits(self, items: list[int], noise: Noise | None = None) -> dict[str, Tensor]:
        """Scores of all items, [X]: "fused" (Eq. 20), each m (Eq. 21), and "all" (Eq. 22)."""
        representations = self.prefix(items, noise)
        vectors = self.item_vectors()
        scores = {c: self._score(vectors[c], e) for c, e in representations.items()}
        total = scores["fused"]
        for m in self.rho:
            total = total + self.rho[m] * scores[m]
        return {**scores, "all": total}

    def _score(self, vectors: Tensor, e: Tensor) -> Tensor:
        """Inner products, or cosines over the temperature -> [X]."""
        if not self.config.temperature:
            return vectors @ e
        lengths = vectors.norm(dim=1).clamp(min=1e-12) * e.norm().clamp(min=1e-12)
        return vectors @ e / lengths / self.config.temperature

    # All prefixes (Eq. 23-24)

    def loss(
        self, sequences: list[list[int]], noises: Sequence[Sequence[Noise]] | None = None
    ) -> Tensor:
        """Mean over prefixes of CE_fused + sum_m rho_m CE_m, a scalar (Eq. 23-24).

        items[:p + 1] predicts items[p + 1]; `noises[u][p][m]` [K] is its noise. A sequence of T
        items has T - 1 prefixes. Windows of a longer history are sequences here, cut by the caller.
        """
        losses = []
        for u, items in enumerate(sequences):
            for p in range(len(items) - 1):
                noise = None if noises is None else noises[u][p]
                scores = self.logits(items[: p + 1], noise)
                target = items[p + 1]
                loss = -scores["fused"].log_softmax(dim=0)[target]
                for m in self.rho:
                    loss = loss - self.rho[m] * scores[m].log_softmax(dim=0)[target]
                losses.append(loss)
        if not losses:
            raise ValueError("no sequence has two items, so there is no prefix to predict from")
        return torch.stack(losses).mean()

    # Parameters by name

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.params[f"{name}.weight"].T + self.params[f"{name}.bias"]

    def _layer_norm(self, name: str, x: Tensor) -> Tensor:
        variance = x.var(dim=-1, correction=0, keepdim=True)
        standard = (x - x.mean(dim=-1, keepdim=True)) / (variance + LAYER_NORM_EPS).sqrt()
        return standard * self.params[f"{name}.weight"] + self.params[f"{name}.bias"]
