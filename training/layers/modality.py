"""The constants of one modality inside the model: item graph, centers, features (Eq. 5-6, 10-11).

X items, D width, K centers, F features.
"""

import numpy as np
import torch
from torch import Tensor, nn

from training.data.device_matrices import DeviceGraph, device_graph
from training.data.item_tables import ItemTables, ModalityTables
from training.data.long_rows import LongRows
from training.data.sparse import SparseMatrix, product
from training.layers.item_constants import ItemConstants

ENTRIES = 8192  # of C, multiplied at a time


class Modality(nn.Module):
    """One modality's constants and, if its graph is not used (w/o MRGC), a map of features to D."""

    def __init__(self, tables: ModalityTables, dim: int, of: ItemTables) -> None:
        """Take the tables of a modality `of` all items, or of those that this rank owns."""
        super().__init__()
        num_rows = of.num_parameter_rows
        graph, members, features = tables.adjacency, tables.membership, tables.features
        self.graph: DeviceGraph | None = None if graph is None else device_graph(graph)
        self.centers = None  # C Ahat, whose product with E^id is c^0 (Eq. 11)
        if members is not None and graph is not None:
            centers = tables.centers
            if centers is None:
                assert isinstance(graph, SparseMatrix)
                centers = product(members, graph, num_rows)
            self.centers = LongRows(centers, num_rows)
        self.kept: Tensor | None = None  # c^0 [K, D], if it is kept for several steps
        self.feature_map = None if features is None else nn.Linear(features.shape[1], dim)
        self.features = None if features is None else ItemConstants(features)  # F
        self.center_features: Tensor | None  # C F
        self.center_sums: Tensor | None  # C 1
        center_features = center_sums = None
        if members is not None and features is not None:
            center_features = of.over_items(_times(members, features)).to(features.dtype)
            ones = torch.ones(1, 1).expand(len(features), 1)
            center_sums = of.over_items(_times(members, ones)).to(features.dtype)
        self.register_buffer("center_features", center_features, persistent=False)
        self.register_buffer("center_sums", center_sums, persistent=False)

    def keep_centers(self, num_centers: int, dim: int) -> None:
        """Make room for c^0 if it is a product with E^id."""
        if self.centers is not None:
            del self.kept
            self.register_buffer("kept", torch.zeros(num_centers, dim), persistent=False)

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Return the items' features mapped to D, zeros without any; None: all items [X, D]."""
        assert self.feature_map is not None and self.features is not None
        features = self.features(items)
        present = (features != 0).any(dim=1, keepdim=True)
        return self.feature_map(features) * present  # type: ignore[no-any-return]

    def mapped_centers(self) -> Tensor | None:
        """Return c^0 of the mapped features [K, D]: C (F W + b) = (C F) W + (C 1) b."""
        if self.center_features is None:
            return None
        assert self.feature_map is not None and self.center_sums is not None
        bias_1D: Tensor = self.feature_map(torch.zeros_like(self.center_features[:1]))
        mapped_KD: Tensor = self.feature_map(self.center_features)
        return mapped_KD + (self.center_sums - 1) * bias_1D


def _times(members: SparseMatrix, rows_XF: Tensor) -> Tensor:
    """Return C F in float64 [K, F], so that parts of ranks add up to what one rank computes.

    A few rows at a time are in float64.
    """
    product = torch.zeros(members.num_rows, rows_XF.shape[1], dtype=torch.float64)
    center = np.repeat(np.arange(members.num_rows), np.diff(members.starts))
    for first in range(0, len(center), ENTRIES):
        entries = slice(first, first + ENTRIES)
        columns = torch.from_numpy(members.columns[entries]).long()
        weights = torch.from_numpy(members.weights[entries]).double()
        rows = rows_XF[columns].double() * weights[:, None]
        product.index_add_(0, torch.from_numpy(center[entries]), rows)
    return product
