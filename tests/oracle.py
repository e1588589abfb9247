"""Oracle of the tests: MDSRec's Eq. 1-24 in plain form, dense and in float64.

Every prefix is computed on its own, as a sequence of its own items, and its interest centers go
through the projections as the paper prints them. Nothing is batched, padded, shared between
prefixes or folded together. Dropout is 0. Autograd gives the gradients.

Letters: X items, T positions of a prefix, D width, K centers, L layers, m a modality, F the width
of its features. A vector is a row; a pair of weight [out, in] and bias [out] computes x W^T + b.
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
    """Return O [X, X], symmetric, zero on the diagonal (Eq. 1-2).

    Every pair of positions p < q that holds two different items adds 1/(q - p), or 1 without
    `distance`. A repeated item counts at each of its positions. `sequences` are the training parts.
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
    """Return N(O) [X, X]. An item that occurs with no other keeps its row of zeros.

    row: each row over its sum; symmetric: D^-1/2 O D^-1/2, D the row sums; none: O itself.
    """
    sums = O.sum(dim=1)
    sums = torch.where(sums > 0, sums, torch.ones_like(sums))  # changes only rows of zeros
    if how == "row":
        return O / sums[:, None]
    if how == "symmetric":
        return O / sums.sqrt()[:, None] / sums.sqrt()[None, :]
    if how == "none":
        return O
    raise ValueError(f"how = {how!r}: choose from row, symmetric, none")


def smoothed(E: Tensor, O_normalized: Tensor, mu: float) -> Tensor:
    """Return Ebar = mu N(O) E + E, of the shape of E: [X, F] or [X, D] (Eq. 3)."""
    return mu * (O_normalized @ E) + E


def neighbors(E_smoothed: Tensor, has: Tensor, H: int) -> list[list[int]]:
    """Return the H most similar other items of each item, the most similar first (Eq. 4-5).

    The similarity is the cosine of the rows of `E_smoothed` [X, F]; ties are ordered by item index.
    An item without the modality (`has` [X] is False) has an empty list and is in no list. A list
    holds all others where there are fewer than H.
    """
    directions = F.normalize(E_smoothed.double(), dim=1, eps=1e-300).tolist()
    present = [i for i, there in enumerate(has.tolist()) if there]

    def cosine(i: int, j: int) -> float:
        products = [a * b for a, b in zip(directions[i], directions[j], strict=True)]
        return math.fsum(products)  # exact sum, so equal rows tie exactly

    lists: list[list[int]] = [[] for _ in directions]
    for i in present:
        others = sorted((-cosine(i, j), j) for j in present if j != i)
        lists[i] = [j for _, j in others[:H]]
    return lists


def adjacency(neighbors: list[list[int]], H: int, has: Tensor, include_self: bool) -> Tensor:
    """Return Ahat [X, X]: the first H neighbors of each item, and itself if so set (Eq. 5-6).

    The row of an item without the modality, or without any neighbor, holds only the item itself,
    with and without `include_self`.
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


# Interest centers (Eq. 10-11)


def membership(center_of_item: list[int | None], k: int) -> Tensor:
    """Return C [K, X], by which a center is the mean of its items (Eq. 10-11).

    None means that the item lacks the modality and belongs to no center. An empty center is a row
    of zeros.
    """
    C = torch.zeros(k, len(center_of_item), dtype=torch.float64)
    for i, center in enumerate(center_of_item):
        if center is not None:
            C[center, i] = 1 / center_of_item.count(center)
    return C


# The model (Eq. 6-24)


@dataclass(frozen=True)
class Oracle:
    """MDSRec at given parameters. The modalities are the keys of `rho`, in their order.

    `O_id` is N(O) [X, X]; `Ahat[m]` [X, X] is used only with `item_graph`; `C[m]` [K, X];
    `features[m]` [X, F] is used only without `item_graph` and has rows of zeros where an item lacks
    the modality.
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
        """Return the vectors that score items: "fused" -> E^id, m -> Ehat^m; each [X, D]."""
        vectors = {"fused": self.params["item_embedding"]}
        for m in self.rho:
            vectors[m] = self._modal_items(m)
        return vectors

    def _modal_items(self, m: str) -> Tensor:
        """Return Ehat^m = Ahat^m E^id [X, D] (Eq. 6); w/o MRGC the features, mapped to D.

        An item without the modality is mapped to zero, not to the bias of the map.
        """
        if self.config.item_graph:
            return self.Ahat[m] @ self.params["item_embedding"]
        present = (self.features[m] != 0).any(dim=1)
        return self._linear(f"feature_maps.{m}", self.features[m]) * present[:, None]

    # One sequence (Eq. 7-9)

    def _states(self, channel: str, items: list[int]) -> list[Tensor]:
        """Return x^0 ... x^L, each [T, D], of encoder `channel`: "id" or a modality (Eq. 7-9)."""
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
        """Apply one causal post-norm Transformer block, [T, D] -> [T, D] (Eq. 8)."""
        causal = torch.ones(len(x), len(x), dtype=torch.bool).tril()
        x = self._layer_norm(f"{block}.attention_norm", x + self._attention(block, x, x, causal))
        inner = F.gelu(self._linear(f"{block}.inner", x))
        outer = self._linear(f"{block}.outer", inner)
        return self._layer_norm(f"{block}.feedforward_norm", x + outer)

    def _attention(self, block: str, queries: Tensor, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return [heads] U [Q, D], where `queries` [Q, D] attend to `tokens` [T, D] (Eq. 12-14).

        `visible` [Q, T] marks the tokens that each query attends to. Heads are contiguous slices of
        D.
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
        """Return c^0 ... c^L, each [K, D], of the prefix with states x^0 ... x^L (Eq. 11-16).

        At layer l the centers attend to all tokens of x^{l-1} by Q, K, V and U of the block.
        """
        c = self.C[m] @ self._modal_items(m)  # Eq. 11
        centers = [c]
        for layer in range(self.config.num_layers):
            tokens = states[layer]  # the input of this block
            all_visible = torch.ones(len(c), len(tokens), dtype=torch.bool)
            g = self._attention(f"encoders.{m}.blocks.{layer}", c, tokens, all_visible)
            first = self._linear(f"centers.{m}.{layer}.first", g)
            c = F.gelu(self._linear(f"centers.{m}.{layer}.second", first))  # Eq. 15
            centers.append(c)
        return centers

    # One prefix (Eq. 16-22)

    def prefix(self, items: list[int], noise: Noise | None = None) -> dict[str, Tensor]:
        """Return the representations: "fused" -> e_s (Eq. 17), m -> etilde^m (Eq. 18-19), each [D].

        Only the last `max_length` items count, at positions from 0. Noise None means delta = 1/2.
        """
        if not items:
            raise ValueError("a prefix must have at least one item")
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
        """Return scores of all items [X]: "fused" (Eq. 20), each m (Eq. 21) and "all" (Eq. 22)."""
        representations = self.prefix(items, noise)
        vectors = self.item_vectors()
        scores = {c: self._score(vectors[c], e) for c, e in representations.items()}
        total = scores["fused"]
        for m in self.rho:
            total = total + self.rho[m] * scores[m]
        return {**scores, "all": total}

    def _score(self, vectors: Tensor, e: Tensor) -> Tensor:
        """Return inner products, or cosines over the temperature -> [X]."""
        if not self.config.temperature:
            return vectors @ e
        lengths = vectors.norm(dim=1).clamp(min=1e-12) * e.norm().clamp(min=1e-12)
        return vectors @ e / lengths / self.config.temperature

    # All prefixes (Eq. 23-24)

    def loss(
        self, sequences: list[list[int]], noises: Sequence[Sequence[Noise]] | None = None
    ) -> Tensor:
        """Return the mean over prefixes of CE_fused + sum_m rho_m CE_m, a scalar (Eq. 23-24).

        items[:p + 1] predicts items[p + 1], with noise `noises[u][p][m]` [K]. A sequence of T items
        has T - 1 prefixes. The caller cuts a longer history into windows, which are sequences here.
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
            raise ValueError("no sequence has two items, so no prefix has a target")
        return torch.stack(losses).mean()

    # Parameters by name

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.params[f"{name}.weight"].T + self.params[f"{name}.bias"]

    def _layer_norm(self, name: str, x: Tensor) -> Tensor:
        variance = x.var(dim=-1, correction=0, keepdim=True)
        standard = (x - x.mean(dim=-1, keepdim=True)) / (variance + LAYER_NORM_EPS).sqrt()
        return standard * self.params[f"{name}.weight"] + self.params[f"{name}.bias"]
